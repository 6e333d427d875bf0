// Loops of a length known to the compiler.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace tqs::panel {

// body(std::integral_constant<int, 0>), ... , unrolled, so that arrays of registers are indexed by constants.
template <int count, class Body>
static inline __attribute__((always_inline)) void unroll(const Body& body) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (body(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, count>{});
}

// Calls body(std::integral_constant<int, rows>) for rows in [1, most].
template <int most, class Body>
static inline void dispatch_rows(std::int64_t rows, const Body& body) {
    if constexpr (most > 1) {
        if (rows < most) return dispatch_rows<most - 1>(rows, body);
    }
    body(std::integral_constant<int, most>{});
}

}  // namespace tqs::panel
