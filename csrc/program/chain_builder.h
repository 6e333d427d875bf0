// How chains are written: instructions in single-assignment form.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "program/chain.h"

namespace tqs {

// Appends instructions, each distinct one once.
class ChainBuilder {
  public:
    explicit ChainBuilder(int inputs) { chain_.inputs = chain_.registers = inputs; }

    std::int16_t constant(double value) { return emit(Opcode::constant, 0, 0, 0, value); }
    std::int16_t emit(Opcode op, std::int16_t a, std::int16_t b = 0, std::int16_t c = 0, double value = 0.0);

    // a^b; for a constant b as products, square roots and reciprocals, as torch does.
    std::int16_t power(std::int16_t a, std::int16_t b);

    // The instructions of a chain; returns where each of its registers is now.
    std::vector<std::int16_t> append(const Chain& chain);

    // The value of a register that holds a constant.
    std::optional<double> value_of(std::int16_t r) const;

    Chain& chain() { return chain_; }

  private:
    Chain chain_;
    std::map<std::tuple<Opcode, std::int16_t, std::int16_t, std::int16_t, std::uint64_t>, std::int16_t> known_;
};

// Without the instructions that neither the outputs nor the Jacobian need.
Chain drop_unused(const Chain& chain);

}  // namespace tqs
