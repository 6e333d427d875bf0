// The codes that a row may take, and the nearest of them: one row of a packed weight while its codes are being chosen.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/half.h"
#include "quant/format.h"

namespace tqs {

// Nearest integer, ties to even, of |x| < 2^51 (cpu/scalar/quantize.cpp says why not std::rint).
static inline double round_even(double x) {
    return (x + 0x1.8p52) - 0x1.8p52;
}

// Of one group: value = scale (code - zero).
struct Grid {
    double scale, inverse, low, high;  // code - zero lies in [low, high]

    // code - zero of the nearest value; equal to what quantize writes (quant/search.h).
    double nearest(double value) const {
        double q = value * inverse;
        q = q < low ? low : q;
        return round_even(q > high ? high : q);
    }
};

static inline Grid grid_of(std::uint16_t scale, int zero, int bits) {
    const double value = bfloat16_to_float(scale);
    return {value, 1.0 / value, -static_cast<double>(zero), static_cast<double>((1 << bits) - 1 - zero)};
}

// The group of each column.
inline std::vector<std::int32_t> groups_of_columns(std::int64_t columns, std::int64_t group_size) {
    std::vector<std::int32_t> groups(static_cast<std::size_t>(columns));
    for (std::int64_t k = 0; k < columns; ++k) {
        groups[static_cast<std::size_t>(k)] = group_size == 0 ? 0 : static_cast<std::int32_t>(k / group_size);
    }
    return groups;
}

}  // namespace tqs
