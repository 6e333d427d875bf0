// Reading and writing the bitstream of one row (layout: quant/format.h).
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace tqs {

// Writes code k of a row whose bits from there on are zero.
static inline void write_code(std::uint8_t* row, std::int64_t k, int bits, int code) {
    const std::int64_t bit = k * bits;
    const unsigned shifted = static_cast<unsigned>(code) << (bit % 8);
    row[bit / 8] |= static_cast<std::uint8_t>(shifted);
    if (bit % 8 + bits > 8) row[bit / 8 + 1] |= static_cast<std::uint8_t>(shifted >> 8);
}

// Code k of a row; touches only bytes that hold it.
static inline int read_code(const std::uint8_t* row, std::int64_t k, int bits) {
    const std::int64_t bit = k * bits;
    unsigned window = row[bit / 8];
    if (bit % 8 + bits > 8) window |= static_cast<unsigned>(row[bit / 8 + 1]) << 8;
    return static_cast<int>((window >> (bit % 8)) & ((1u << bits) - 1u));
}

}  // namespace tqs
