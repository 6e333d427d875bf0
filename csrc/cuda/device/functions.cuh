// Elementary functions of elementwise chains and rows.
//
// exp, log and their kin are CUDA's. Largest error, in units in the last place of the correctly rounded result, as
// the CUDA C++ Programming Guide states it ("Mathematical Functions", accurate division and square root, no fast math;
// found by tests, not proven; half a unit more from the exact result), and of those made of them here:
//
//     function                            float32         float64
//     exp / log log1p expm1               2 / 1           1
//     sin cos / tan                       2 / 4           2
//     atan / atan2 sinh cosh / tanh       2 / 3 / 2       2
//     error_function / power              2 / 4           2
//     sigmoid                             4               3
//     softplus                            3.5             3
//     silu = x sigmoid(x)                 5               4
//     gelu = x/2 erfc(-x / sqrt 2)        7 + 2 x^2       8 + 2 x^2   the last term for x < 0 only, from the rounding
//     gelu_tanh = x sigmoid(v)            5 + 3 |v|       4 + 3 |v|   of the argument
#pragma once

#include <cmath>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

// torch's: the sign of the divisor.
template <class T>
__device__ inline T remainder_of(T a, T b) {
    const T rest = std::fmod(a, b);
    return rest != T(0) && (b < T(0)) != (rest < T(0)) ? rest + b : rest;
}

// torch's: consistent with the remainder also where a / b rounds to an integer.
template <class T>
__device__ inline T floor_quotient(T a, T b) {
    if (b == T(0)) return a / b;
    const T rest = std::fmod(a, b);
    T quotient = (a - rest) / b;
    if (rest != T(0) && (b < T(0)) != (rest < T(0))) quotient -= T(1);
    if (quotient == T(0)) return std::copysign(T(0), a / b);
    const T whole = std::floor(quotient);
    return quotient - whole > T(0.5) ? whole + T(1) : whole;
}

// With e = exp(-|x|) <= 1: no overflow and no cancellation.
template <class T>
__device__ inline T sigmoid(T x) {
    const T e = std::exp(-std::fabs(x));
    return (x < T(0) ? e : T(1)) / (T(1) + e);
}

template <class T>
__device__ inline T softplus(T x) {
    return (x < T(0) ? T(0) : x) + std::log1p(std::exp(-std::fabs(x)));
}

template <class T>
__device__ inline T gelu(T x) {
    return T(0.5) * x * std::erfc(-x * T(0.70710678118654752));
}

template <class T>
__device__ inline T gelu_tanh(T x) {
    constexpr T linear = T(1.5957691216057308), cubic = T(0.044715 * 1.5957691216057308);  // 2 sqrt(2 / pi)
    return x * sigmoid(x * fused(x * x, cubic, linear));
}

}  // namespace tqs::cuda
