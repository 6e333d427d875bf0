// A number of rows known at run time as a constant of the compiler.
#pragma once

#include <cstdint>
#include <type_traits>

namespace tqs::panel {

// Calls body(std::integral_constant<int, rows>) for rows in [1, most].
template <int most, class Body>
static inline void dispatch_rows(std::int64_t rows, const Body& body) {
    if constexpr (most > 1) {
        if (rows < most) return dispatch_rows<most - 1>(rows, body);
    }
    body(std::integral_constant<int, most>{});
}

}  // namespace tqs::panel
