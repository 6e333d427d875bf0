// Vector pieces of attention, over a `V` of the ISA folder that gives Element, Vector, Word (an unsigned integer of the
// size of Element), Words, kLanes, and load, store, load_partial, store_partial, broadcast, multiply_add.
// All of it works on whole vectors: an element meets the same operations in every lane.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

namespace tqs::panel {

// body(std::integral_constant<int, i>) for i in [0, count), unrolled before the compiler decides what lives in
// registers.
template <int count, class Body>
[[gnu::always_inline]] static inline void unroll(const Body& body) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (body(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, count>{});
}

template <class V>
static inline typename V::Vector largest(typename V::Vector a, typename V::Vector b) {
    return a > b ? a : b;  // b where either is NaN
}

// Segments of 2 half lanes: [the low (high) halves of a, those of b].
template <class V, int half, bool high>
[[gnu::always_inline]] static inline typename V::Vector join(typename V::Vector a, typename V::Vector b) {
    const auto source = [](int lane) {
        const int within = lane % (2 * half), from = lane - within + within % half + (high ? half : 0);
        return within < half ? from : V::kLanes + from;
    };
    return [&]<int... lane>(std::integer_sequence<int, lane...>) {
        return __builtin_shufflevector(a, b, source(lane)...);
    }(std::make_integer_sequence<int, V::kLanes>{});
}

// rows[i] lane j <-> rows[j] lane i: swaps the off-diagonal quarters, then those of each quarter.
template <class V, int half = V::kLanes / 2>
[[gnu::always_inline]] static inline void transpose(typename V::Vector (&rows)[V::kLanes]) {
    unroll<V::kLanes>([&](auto i) __attribute__((always_inline)) {
        if constexpr ((i.value & half) == 0) {
            const typename V::Vector low = join<V, half, false>(rows[i], rows[i + half]);
            rows[i + half] = join<V, half, true>(rows[i], rows[i + half]);
            rows[i] = low;
        }
    });
    if constexpr (half > 1) transpose<V, half / 2>(rows);
}

// Lane i of the result is the sum over the lanes of rows[i], as a balanced tree. Overwrites rows.
template <class V, int half = V::kLanes / 2>
[[gnu::always_inline]] static inline typename V::Vector sum_across(typename V::Vector (&rows)[V::kLanes]) {
    unroll<half>([&](auto i) __attribute__((always_inline)) {
        rows[i] = join<V, half, false>(rows[i], rows[i + half]) + join<V, half, true>(rows[i], rows[i + half]);
    });
    if constexpr (half > 1) {
        return sum_across<V, half / 2>(rows);
    } else {
        return rows[0];
    }
}

template <class T>
struct ExpConstants;

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2 = 0.347. `kDegree` is the lowest whose Taylor remainder
// r^(d+1) / (d+1)! is below a tenth of a rounding: 5e-9 for 7, 4e-18 for 13. ln 2 is split so that n kLn2High is exact.
template <>
struct ExpConstants<float> {
    static constexpr int kDegree = 7, kMantissa = 23;
    static constexpr std::uint32_t kBias = 127;
    static constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low mantissa bits
    static constexpr float kLeast = -104.0f;      // exp of this rounds to 0
};

template <>
struct ExpConstants<double> {
    static constexpr int kDegree = 13, kMantissa = 52;
    static constexpr std::uint64_t kBias = 1023;
    static constexpr double kLog2E = 1.4426950408889634, kLn2High = 0.693145751953125, kLn2Low = 1.42860682030941723e-6;
    static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double kLeast = -746.0;
};

// exp(x) for x <= 0 within 2 units in the last place, subnormal results included; -inf gives 0, NaN stays NaN.
template <class V>
static inline typename V::Vector exp_of_negative(typename V::Vector x) {
    using T = typename V::Element;
    using C = ExpConstants<T>;
    const typename V::Vector least = V::broadcast(C::kLeast), round = V::broadcast(C::kRound);
    x = x < least ? least : x;
    const typename V::Vector shifted = V::multiply_add(x, V::broadcast(C::kLog2E), round), n = shifted - round;
    typename V::Vector r = V::multiply_add(n, V::broadcast(-C::kLn2High), x);
    r = V::multiply_add(n, V::broadcast(-C::kLn2Low), r);
    constexpr auto inverse_factorial = [](int of) {
        double value = 1.0;
        for (int i = 2; i <= of; ++i) value /= i;
        return static_cast<T>(value);
    };
    typename V::Vector sum = V::broadcast(inverse_factorial(C::kDegree));
    unroll<C::kDegree>([&](auto i) __attribute__((always_inline)) {
        constexpr T coefficient = inverse_factorial(C::kDegree - 1 - i.value);
        sum = V::multiply_add(sum, r, V::broadcast(coefficient));
    });
    // 2^n in two factors, as n goes below the exponents of normal numbers. `twice` = n + 2 kBias > 0.
    using Words = typename V::Words;
    constexpr typename V::Word bias = C::kBias;
    const Words twice = std::bit_cast<Words>(shifted) - std::bit_cast<Words>(round) + 2 * bias;
    const Words first = twice >> 1;
    return sum * std::bit_cast<typename V::Vector>(first << C::kMantissa) *
           std::bit_cast<typename V::Vector>((twice - first) << C::kMantissa);
}

}  // namespace tqs::panel
