// sin, cos, tan, atan, sinh, cosh and power of float64 vectors, which float32 goes through too: half the speed of a
// float32 form, and no error to speak of. See functions.h for errors.
#pragma once

#include "cpu/panel/functions_exponential.h"

namespace tqs::panel {

// x = k pi / 2 + r, |r| <= pi / 4; sin(r) and cos(r). For |x| <= 2^28: k kPi0 is a multiple of 2^-52 and x - k kPi0
// below 1, so the first step is exact, and the third part of pi leaves 2^-81 of error.
template <class W>
struct Quadrant {
    typename W::Bits k;
    VectorOf<W> sine, cosine;
};

constexpr double kTrigonometricLimit = 268435456.0;

template <class W>
static inline Quadrant<W> reduce_to_quadrant(VectorOf<W> x) {
    static constexpr double kPi0 = 1.5707963267948966, kPi1 = 6.123233995736766e-17, kPi2 = -1.4973849048591833e-33;
    // (sin(r) / r - 1) / r^2 in r^2, 2^-55.4; (cos(r) - 1 + r^2 / 2) / r^4 in r^2, 2^-59.4
    static constexpr double kSine[] = {-0.16666666666666666,  0.008333333333330948,   -0.00019841269836757408,
                                       2.755731610178906e-06, -2.505113166029247e-08, 1.591811451157248e-10};
    static constexpr double kCosine[] = {0.041666666666666664,    -0.0013888888888887398, 2.4801587298764788e-05,
                                         -2.7557317271175225e-07, 2.087614613858505e-09,  -1.1382622252384216e-11};
    const Rounded<W> k = nearest<W>(x, 0.6366197723675814);
    VectorOf<W> r = W::multiply_add(-k.number, W::broadcast(kPi0), x);
    r = W::multiply_add(-k.number, W::broadcast(kPi1), r);
    r = W::multiply_add(-k.number, W::broadcast(kPi2), r);
    const VectorOf<W> z = r * r;
    const VectorOf<W> half = 0.5 * z;
    const VectorOf<W> head = 1.0 - half;  // what its rounding loses, (1 - head) - half, is given back
    const VectorOf<W> tail = W::multiply_add(polynomial<W>(z, kCosine), z * z, (1.0 - head) - half);
    return {k.bits, W::multiply_add(polynomial<W>(z, kSine) * z, r, r), head + tail};
}

template <class W>
static inline VectorOf<W> sin(VectorOf<W> x) {
    const Quadrant<W> q = reduce_to_quadrant<W>(x);
    const VectorOf<W> value = (q.k & 1) != 0 ? q.cosine : q.sine;
    return x == 0.0 ? x : ((q.k & 2) != 0 ? -value : value);
}

template <class W>
static inline VectorOf<W> cos(VectorOf<W> x) {
    const Quadrant<W> q = reduce_to_quadrant<W>(x);
    const VectorOf<W> value = (q.k & 1) != 0 ? q.sine : q.cosine;
    return ((q.k + 1) & 2) != 0 ? -value : value;
}

template <class W>
static inline VectorOf<W> tan(VectorOf<W> x) {
    const Quadrant<W> q = reduce_to_quadrant<W>(x);
    const auto odd = (q.k & 1) != 0;
    return x == 0.0 ? x : (odd ? -q.cosine : q.sine) / (odd ? q.sine : q.cosine);
}

// |x| > tan(3 pi / 8): pi / 2 + atan(-1 / |x|); |x| > tan(pi / 8): pi / 4 + atan((|x| - 1) / (|x| + 1)).
template <class W>
static inline VectorOf<W> atan(VectorOf<W> x) {
    static constexpr double kPi1 = 6.123233995736766e-17;  // pi / 2 beyond float64
    // (atan(x) / x - 1) / x^2 in x^2, |x| <= tan(pi / 8), 2^-54.9
    static constexpr double kAtan[] = {-0.3333333333333333,  0.19999999999995777,  -0.142857142847154,
                                       0.11111111018877935,  -0.09090904714548766, 0.07692186144305987,
                                       -0.06664550390626829, 0.05858466833345495,  -0.05087018626704218,
                                       0.03927453300368874,  -0.019226694540414386};
    const VectorOf<W> size = absolute<W>(x);
    const auto far = size > 2.414213562373095, middle = size > 0.41421356237309503;
    const VectorOf<W> numerator = far ? W::broadcast(-1.0) : (middle ? size - 1.0 : size);
    const VectorOf<W> denominator = far ? size : (middle ? size + 1.0 : W::broadcast(1.0));
    const VectorOf<W> r = numerator / denominator;
    const VectorOf<W> z = r * r;
    const VectorOf<W> zero = W::broadcast(0.0);
    const VectorOf<W> high =
        far ? W::broadcast(1.5707963267948966) : (middle ? W::broadcast(0.7853981633974483) : zero);
    const VectorOf<W> low = far ? W::broadcast(kPi1) : (middle ? W::broadcast(0.5 * kPi1) : zero);
    return copy_sign<W>(high + (W::multiply_add(polynomial<W>(z, kAtan) * z, r, r) + low), x);
}

constexpr double kHyperbolicLimit = 709.0;  // exp does not overflow

// With e = exp(|x|) - 1: (e + e / (e + 1)) / 2.
template <class W>
static inline VectorOf<W> sinh(VectorOf<W> x) {
    const VectorOf<W> e = expm1<W>(absolute<W>(x));
    return copy_sign<W>(0.5 * (e + e / (e + 1.0)), x);
}

template <class W>
static inline VectorOf<W> cosh(VectorOf<W> x) {
    const VectorOf<W> e = exp<W>(absolute<W>(x));
    return 0.5 * (e + 1.0 / e);
}

// |a|^b = exp(b log |a|), good to float32 for float32 arguments: |b log |a|| < 110 where it matters, an error of
// 110 * 2^-52. The special cases are those of C's pow.
template <class W>
static inline VectorOf<W> power(VectorOf<W> a, VectorOf<W> b) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const VectorOf<W> size = absolute<W>(a);
    VectorOf<W> result = exp<W>(b * log<W>(size));
    const auto whole = W::round(b) == b;
    const auto odd = whole & (W::round(0.5 * b) != 0.5 * b);
    result = odd ? copy_sign<W>(result, a) : result;
    const auto invalid = (a < 0.0) & (size < infinity) & (b == b) & ~whole;
    result = invalid ? W::broadcast(std::numeric_limits<double>::quiet_NaN()) : result;
    const auto one = (a == 1.0) | (b == 0.0) | ((size == 1.0) & (absolute<W>(b) == infinity));
    return one ? W::broadcast(1.0) : result;
}

}  // namespace tqs::panel
