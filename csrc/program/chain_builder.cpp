#include "program/chain_builder.h"

#include <cmath>
#include <cstring>

#include "core/check.h"

namespace tqs {
namespace {

// Which instructions the outputs and the Jacobian need.
std::vector<bool> find_needed(const Chain& chain) {
    std::vector<bool> live(static_cast<std::size_t>(chain.registers));
    const auto mark = [&](std::int16_t r) {
        if (r >= 0) live[static_cast<std::size_t>(r)] = true;
    };
    for (const std::int16_t r : chain.outputs) mark(r);
    for (const std::int16_t r : chain.jacobian) mark(r);
    std::vector<bool> needed(chain.code.size());
    for (std::size_t index = chain.code.size(); index-- > 0;) {
        const Instruction& code = chain.code[index];
        if (!live[static_cast<std::size_t>(code.out)]) continue;
        needed[index] = true;
        const std::int16_t arguments[] = {code.a, code.b, code.c};
        for (int argument = 0; argument < arity(code.op); ++argument) mark(arguments[argument]);
    }
    return needed;
}

}  // namespace

std::int16_t ChainBuilder::emit(Opcode op, std::int16_t a, std::int16_t b, std::int16_t c, double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto [entry, fresh] = known_.try_emplace({op, a, b, c, bits}, static_cast<std::int16_t>(chain_.registers));
    if (fresh) {
        require(chain_.registers < 16384, "elementwise", "a chain of ", chain_.code.size(),
                " instructions is too long; split it");
        chain_.code.push_back({op, entry->second, a, b, c, value});
        ++chain_.registers;
    }
    return entry->second;
}

std::optional<double> ChainBuilder::value_of(std::int16_t r) const {
    if (r < chain_.inputs) return std::nullopt;
    const Instruction& code = chain_.code[static_cast<std::size_t>(r - chain_.inputs)];
    return code.op == Opcode::constant ? std::optional(code.value) : std::nullopt;
}

std::int16_t ChainBuilder::power(std::int16_t a, std::int16_t b) {
    const double exponent = value_of(b).value_or(std::nan(""));
    const auto square = [&] {
        return emit(Opcode::multiply, a, a);
    };
    if (exponent == 0.0) return constant(1);
    if (exponent == 1.0) return a;
    if (exponent == 2.0) return square();
    if (exponent == 3.0) return emit(Opcode::multiply, square(), a);
    if (exponent == 0.5) return emit(Opcode::square_root, a);
    if (exponent == -0.5) return emit(Opcode::reciprocal_square_root, a);
    if (exponent == -1.0) return emit(Opcode::reciprocal, a);
    if (exponent == -2.0) return emit(Opcode::reciprocal, square());
    return emit(Opcode::power, a, b);
}

std::vector<std::int16_t> ChainBuilder::append(const Chain& chain) {
    std::vector<std::int16_t> place(static_cast<std::size_t>(chain.registers));
    for (int i = 0; i < chain.inputs; ++i) place[static_cast<std::size_t>(i)] = static_cast<std::int16_t>(i);
    for (const Instruction& code : chain.code) {
        const int arguments = arity(code.op);
        const std::int16_t a = arguments > 0 ? place[static_cast<std::size_t>(code.a)] : std::int16_t{0};
        const std::int16_t b = arguments > 1 ? place[static_cast<std::size_t>(code.b)] : std::int16_t{0};
        const std::int16_t c = arguments > 2 ? place[static_cast<std::size_t>(code.c)] : std::int16_t{0};
        place[static_cast<std::size_t>(code.out)] =
            code.op == Opcode::power ? power(a, b) : emit(code.op, a, b, c, arguments ? 0.0 : code.value);
    }
    return place;
}

Chain drop_unused(const Chain& chain) {
    const std::vector<bool> needed = find_needed(chain);
    Chain result = chain;
    result.code.clear();
    for (std::size_t index = 0; index < chain.code.size(); ++index) {
        if (needed[index]) result.code.push_back(chain.code[index]);
    }
    return result;
}

}  // namespace tqs
