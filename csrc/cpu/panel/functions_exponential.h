// exp, log and what is made of them, for the vectors of an ISA folder. See functions.h for errors.
//
// Polynomials are minimax (Remez exchange, 60 digits, rounded to the type) for the expression beside them; the error
// stated is that of the expression.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace tqs::panel {

template <class T>
struct Float;

template <>
struct Float<float> {
    using Integer = std::int32_t;
    static constexpr int kMantissa = 23, kBias = 127;
    static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    static constexpr float kInverseLn2 = 1.44269504f;
    static constexpr float kLn2High = 0.693147182f, kLn2Low = -1.90465421e-9f;
    static constexpr float kOverflow = 89.0f, kUnderflow = -110.0f;  // beyond which exp is infinity, 0
    static constexpr float kMinusOne = -20.0f;                       // below which expm1 is -1
    static constexpr std::int32_t kRootHalf = 0x3f3504f3;            // sqrt(1/2)
    // (exp(r) - 1 - r) / r^2, |r| <= ln(2) / 2, 2^-29.5
    static constexpr float kExp[] = {0.5f, 0.16666667f, 0.041666463f, 0.008333286f, 0.0013933654f, 0.00019907585f};
    // (log(1 + f) - f + f^2 / 2) / f^3, sqrt(1/2) - 1 <= f <= sqrt(2) - 1, 2^-25.4
    static constexpr float kLog[] = {0.3333333f,   -0.2499998f,  0.20000689f,  -0.16669151f, 0.14251158f,
                                     -0.12396696f, 0.116346434f, -0.11659961f, 0.07332629f};
};

template <>
struct Float<double> {
    using Integer = std::int64_t;
    static constexpr int kMantissa = 52, kBias = 1023;
    static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double kInverseLn2 = 1.4426950408889634;
    static constexpr double kLn2High = 0.6931471805599453, kLn2Low = 2.3190468138462996e-17;
    static constexpr double kOverflow = 710.0, kUnderflow = -760.0;
    static constexpr double kMinusOne = -40.0;
    static constexpr std::int64_t kRootHalf = 0x3fe6a09e667f3bcd;
    // 2^-59.3
    static constexpr double kExp[] = {0.5,
                                      0.1666666666666667,
                                      0.041666666666666685,
                                      0.008333333333326134,
                                      0.0013888888888874398,
                                      0.0001984126987482399,
                                      2.480158734733946e-05,
                                      2.7557255396471e-06,
                                      2.7557252912472866e-07,
                                      2.510521838664829e-08,
                                      2.0921589370829142e-09};
    // (log(1 + f) / s - 2) / s^2 in s^2, s = f / (2 + f), 2^-51.5 (the direct form would take 20 terms)
    static constexpr double kLog[] = {0.666666666666667,  0.3999999999989851,  0.2857142862637063, 0.222222110774591,
                                      0.1818289288483782, 0.15331607998056482, 0.14617736790073002};
};

template <class W>
using VectorOf = typename W::Vector;

// Coefficients of x^0, x^1, ...
template <class W, std::size_t count>
static inline VectorOf<W> polynomial(VectorOf<W> x, const typename W::Element (&coefficients)[count]) {
    VectorOf<W> sum = W::broadcast(coefficients[count - 1]);
    for (std::size_t i = count - 1; i-- > 0;) sum = W::multiply_add(sum, x, W::broadcast(coefficients[i]));
    return sum;
}

template <class W>
static inline typename W::Bits bits_of(VectorOf<W> x) {
    return __builtin_bit_cast(typename W::Bits, x);
}

template <class W>
static inline VectorOf<W> from_bits(typename W::Bits bits) {
    return __builtin_bit_cast(VectorOf<W>, bits);
}

template <class W>
static inline VectorOf<W> absolute(VectorOf<W> x) {
    return from_bits<W>(bits_of<W>(x) & std::numeric_limits<typename Float<typename W::Element>::Integer>::max());
}

// |x| with the sign of `sign`.
template <class W>
static inline VectorOf<W> copy_sign(VectorOf<W> x, VectorOf<W> sign) {
    using Integer = typename Float<typename W::Element>::Integer;
    constexpr Integer mask = std::numeric_limits<Integer>::min();
    return from_bits<W>((bits_of<W>(x) & ~mask) | (bits_of<W>(sign) & mask));
}

// The integer nearest to x, |x| < 2^21: as a number and as bits.
template <class W>
struct Rounded {
    VectorOf<W> number;
    typename W::Bits bits;
};

template <class W>
static inline Rounded<W> nearest(VectorOf<W> x, typename W::Element scale) {
    const VectorOf<W> rounder = W::broadcast(Float<typename W::Element>::kRounder);
    const VectorOf<W> sum = W::multiply_add(x, W::broadcast(scale), rounder);
    return {sum - rounder, bits_of<W>(sum) - bits_of<W>(rounder)};
}

// 2^k, a normal number.
template <class W>
static inline VectorOf<W> power_of_two(typename W::Bits k) {
    using F = Float<typename W::Element>;
    return from_bits<W>((k + typename F::Integer{F::kBias}) << F::kMantissa);
}

// x 2^k, rounded once, for integers k that may lie beyond the normal range on either side.
template <class W>
static inline VectorOf<W> scale(VectorOf<W> x, const Rounded<W>& k) {
    if constexpr (requires { W::scale(x, x); }) {
        return W::scale(x, k.number);
    } else {  // in two factors
        const typename W::Bits half = nearest<W>(k.number, typename W::Element(0.5)).bits;
        return x * power_of_two<W>(half) * power_of_two<W>(k.bits - half);
    }
}

// r = x - k ln 2, |r| <= ln(2) / 2.
template <class W>
static inline VectorOf<W> reduce_by_ln2(VectorOf<W> x, VectorOf<W> k) {
    using F = Float<typename W::Element>;
    return W::multiply_add(-k, W::broadcast(F::kLn2Low), W::multiply_add(-k, W::broadcast(F::kLn2High), x));
}

// exp(r) - 1.
template <class W>
static inline VectorOf<W> reduced_expm1(VectorOf<W> r) {
    return W::multiply_add(polynomial<W>(r, Float<typename W::Element>::kExp), r * r, r);
}

template <class W>
static inline VectorOf<W> exp(VectorOf<W> x) {
    using F = Float<typename W::Element>;
    const VectorOf<W> over = W::broadcast(F::kOverflow), under = W::broadcast(F::kUnderflow);
    x = x > over ? over : x;  // NaN passes both
    x = x < under ? under : x;
    const Rounded<W> k = nearest<W>(x, F::kInverseLn2);
    const VectorOf<W> e = reduced_expm1<W>(reduce_by_ln2<W>(x, k.number)) + typename W::Element(1);
    return scale<W>(e, k);
}

template <class W>
static inline VectorOf<W> expm1(VectorOf<W> x) {
    using T = typename W::Element;
    using F = Float<T>;
    const VectorOf<W> over = W::broadcast(F::kOverflow), under = W::broadcast(F::kMinusOne);
    const VectorOf<W> given = x;
    x = x > over ? over : x;
    x = x < under ? under : x;
    const Rounded<W> k = nearest<W>(x, F::kInverseLn2);
    const VectorOf<W> e = reduced_expm1<W>(reduce_by_ln2<W>(x, k.number));
    // 2^k e + 2^k - 1 = 2 (h e + h - 1/2) with h = 2^(k-1), which is finite for every finite result.
    const VectorOf<W> h = power_of_two<W>(k.bits - typename F::Integer{1});
    const VectorOf<W> result = W::multiply_add(h, e, h - T(0.5)) * T(2);
    return given == T(0) ? given : result;
}

// log(1 + f) + k ln 2.
template <class W>
static inline VectorOf<W> assemble_log(VectorOf<W> f, VectorOf<W> k) {
    using T = typename W::Element;
    using F = Float<T>;
    const VectorOf<W> half_square = T(0.5) * f * f;
    const VectorOf<W> low = k * F::kLn2Low;
    if constexpr (std::is_same_v<T, float>) {
        const VectorOf<W> rest = W::multiply_add(polynomial<W>(f, F::kLog), f * f * f, low);
        return W::multiply_add(k, W::broadcast(F::kLn2High), f - (half_square - rest));
    } else {
        const VectorOf<W> s = f / (T(2) + f);
        const VectorOf<W> z = s * s;
        const VectorOf<W> rest = W::multiply_add(s, W::multiply_add(polynomial<W>(z, F::kLog), z, half_square), low);
        return W::multiply_add(k, W::broadcast(F::kLn2High), f - (half_square - rest));
    }
}

template <class W>
static inline VectorOf<W> log(VectorOf<W> x) {
    using T = typename W::Element;
    using F = Float<T>;
    using Integer = typename F::Integer;
    constexpr T infinity = std::numeric_limits<T>::infinity();
    constexpr Integer one = Integer{F::kBias} << F::kMantissa, mantissa = (Integer{1} << F::kMantissa) - 1;
    // Below the normal numbers: times 2^(mantissa + 1).
    const auto tiny = x < std::numeric_limits<T>::min();
    const VectorOf<W> scaled = tiny ? x * static_cast<T>(Integer{2} << F::kMantissa) : x;
    // x = 2^k m with sqrt(1/2) <= m < sqrt(2). The shifted bits are of a positive number: no arithmetic shift is
    // needed, which AVX2 lacks for 64 bits; k becomes a number through the rounder for the same reason.
    const typename W::Bits shifted = bits_of<W>(scaled) + (one - F::kRootHalf);
    const VectorOf<W> m = from_bits<W>((shifted & mantissa) + F::kRootHalf);
    const typename W::Bits raised = (shifted & std::numeric_limits<Integer>::max()) >> F::kMantissa;
    const VectorOf<W> rounder = W::broadcast(F::kRounder);
    VectorOf<W> k = from_bits<W>(raised + bits_of<W>(rounder)) - rounder - T(F::kBias);
    k = tiny ? k - T(F::kMantissa + 1) : k;
    VectorOf<W> result = assemble_log<W>(m - T(1), k);
    result = x < infinity ? result : x;  // infinity and NaN
    result = x == T(0) ? W::broadcast(-infinity) : result;
    return x < T(0) ? W::broadcast(std::numeric_limits<T>::quiet_NaN()) : result;
}

template <class W>
static inline VectorOf<W> log1p(VectorOf<W> x) {
    using T = typename W::Element;
    const VectorOf<W> u = T(1) + x;
    // What rounding took from u, to first order; 0 / 0 and infinity - infinity stay out of it.
    const VectorOf<W> lost = absolute<W>(x) < T(1) ? x - (u - T(1)) : T(1) - (u - x);
    const VectorOf<W> logarithm = log<W>(u);
    const auto regular = (u > T(0)) & (u < std::numeric_limits<T>::infinity());
    const VectorOf<W> result = regular ? logarithm + lost / u : logarithm;
    return x == T(0) ? x : result;
}

// With e = exp(-|x|) <= 1: 1 / (1 + e) or e / (1 + e), no overflow and no cancellation.
template <class W>
static inline VectorOf<W> sigmoid(VectorOf<W> x) {
    using T = typename W::Element;
    const VectorOf<W> e = exp<W>(-absolute<W>(x));
    return (x < T(0) ? e : W::broadcast(T(1))) / (T(1) + e);
}

template <class W>
static inline VectorOf<W> softplus(VectorOf<W> x) {
    using T = typename W::Element;
    const VectorOf<W> rest = log1p<W>(exp<W>(-absolute<W>(x)));
    return (x < T(0) ? W::broadcast(T(0)) : x) + rest;
}

template <class W>
static inline VectorOf<W> tanh(VectorOf<W> x) {
    using T = typename W::Element;
    const VectorOf<W> size = absolute<W>(x);
    if constexpr (std::is_same_v<T, float>) {
        // (tanh(x) / x - 1) / x^2 in x^2, |x| <= 0.55, 2^-26.3; beyond, 1 - 2 / (exp(2x) + 1) is at least half.
        static constexpr float kSmall[] = {-0.3333333f, 0.13333121f, -0.053910702f, 0.0213161f, -0.0066212816f};
        const VectorOf<W> square = x * x;
        const VectorOf<W> small = W::multiply_add(polynomial<W>(square, kSmall) * square, size, size);
        const VectorOf<W> large = 1.0f - 2.0f / (exp<W>(2.0f * size) + 1.0f);
        return copy_sign<W>(size < 0.55f ? small : large, x);
    } else {
        const VectorOf<W> e = expm1<W>(T(-2) * size);
        return copy_sign<W>(-e / (T(2) + e), x);
    }
}

// float32 only.
template <class W>
static inline VectorOf<W> error_function(VectorOf<W> x) {
    // erf(x) / x - 1 in x^2, |x| <= 0.95, 2^-30.6
    static constexpr float kSmall[] = {0.12837917f,  -0.37612632f,    0.112836726f, -0.026858104f,
                                       0.005197798f, -0.00081059686f, 8.215424e-05f};
    // -log(erfc(x)), 0.9 <= x <= 4 (erf(4) rounds to 1), weighted so that erf has 2^-29.1
    static constexpr float kLarge[] = {0.00016644534f, 1.1277972f,   0.63697606f,    0.10411367f,
                                       -0.022315202f,  0.003065486f, -0.00019821902f};
    const VectorOf<W> size = absolute<W>(x);
    const VectorOf<W> small = W::multiply_add(polynomial<W>(x * x, kSmall), size, size);
    const VectorOf<W> clamped = size > 4.0f ? W::broadcast(4.0f) : size;
    const VectorOf<W> large = 1.0f - exp<W>(-polynomial<W>(clamped, kLarge));
    return copy_sign<W>(size < 0.925f ? small : large, x);
}

}  // namespace tqs::panel
