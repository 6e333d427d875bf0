// Elementary functions of vectors. `W` is an ISA folder's Wide<float> or Wide<double>.
//
// Error in units in the last place of the result. "libm": the C library, element by element. The scalar folder takes
// all of them from libm, evaluated in float64 and rounded once, and is what the others are measured against.
//
//     function                          float32                       float64
//     exp log                           1                             1
//     expm1 log1p                       1.5                           1.8
//     tanh                              1.5                           2.5
//     sigmoid                           2.5                           2.5
//     softplus                          2                             2
//     silu                              3.3 (and |x| 2^-149)          3.3 (and |x| 2^-1074)
//     gelu_tanh = x sigmoid(v)          3 + 3 |v| (likewise)          3 + 3 |v| (likewise)
//     error_function                    1.2                           libm
//     gelu                              2; x < 0: 2^-23 |x|           libm
//     sin cos                           0.501, in float64             1.5
//     tan                               0.501, in float64             3
//     atan sinh cosh                    0.501, in float64             2.5
//     power                             0.501, in float64             libm
//     atan2 remainder floor_divide      libm                          libm
//
// sin, cos and tan beyond 2^28 and float64 sinh and cosh beyond 709 are redone by libm. Files that include this are
// compiled without contraction (fused multiply-adds are written out), so that a function gives the same bits at every
// place it is inlined.
#pragma once

#include <cmath>

#include "cpu/panel/functions_exponential.h"
#include "cpu/panel/functions_trigonometric.h"

namespace tqs::panel {

// torch's: the sign of the divisor.
template <class T>
static T remainder_of(T a, T b) {
    const T rest = std::fmod(a, b);
    return rest != T(0) && (b < T(0)) != (rest < T(0)) ? rest + b : rest;
}

// torch's: consistent with the remainder also where a / b rounds to an integer.
template <class T>
static T floor_quotient(T a, T b) {
    if (b == T(0)) return a / b;
    const T rest = std::fmod(a, b);
    T quotient = (a - rest) / b;
    if (rest != T(0) && (b < T(0)) != (rest < T(0))) quotient -= T(1);
    if (quotient == T(0)) return std::copysign(T(0), a / b);
    const T whole = std::floor(quotient);
    return quotient - whole > T(0.5) ? whole + T(1) : whole;
}

template <class W>
class Functions {
    using T = typename W::Element;
    using V = typename W::Vector;
    static constexpr bool kScalar = W::kLanes == 1;
    static constexpr bool kSingle = std::is_same_v<T, float>;

    template <class Libm>
    static V each(V x, const Libm& libm) {
        if constexpr (kScalar) {
            return static_cast<T>(libm(static_cast<double>(x)));
        } else {
            alignas(64) T elements[W::kLanes];
            W::store(elements, x);
            for (T& element : elements) element = static_cast<T>(libm(static_cast<double>(element)));
            return W::load(elements);
        }
    }
    template <class Libm>
    static V each(V x, V y, const Libm& libm) {
        if constexpr (kScalar) {
            return libm(x, y);
        } else {
            alignas(64) T left[W::kLanes], right[W::kLanes];
            W::store(left, x);
            W::store(right, y);
            for (int i = 0; i < W::kLanes; ++i) left[i] = libm(left[i], right[i]);
            return W::load(left);
        }
    }

    // `vector(U, x)` with U = W.
    template <class Libm, class Vector>
    static V native(V x, const Libm& libm, const Vector& vector) {
        if constexpr (kScalar) {
            return each(x, libm);
        } else {
            return vector(W{}, x);
        }
    }
    // `vector(U, x)` with U = Wide<double>; elements beyond `limit` by libm.
    template <class Libm, class Vector>
    static V in_double(V x, double limit, const Libm& libm, const Vector& vector) {
        if constexpr (kScalar) {
            return each(x, libm);
        } else {
            using U = typename W::template Other<double>;
            V result;
            if constexpr (kSingle) {
                result = W::narrow(vector(U{}, W::low(x)), vector(U{}, W::high(x)));
            } else {
                result = vector(U{}, x);
            }
            const auto beyond = absolute(x) > static_cast<T>(limit);
            return W::any(beyond) ? (beyond ? each(x, libm) : result) : result;
        }
    }

  public:
    static V absolute(V x) {
        if constexpr (kScalar) {
            return std::abs(x);
        } else {
            return panel::absolute<W>(x);
        }
    }
    static V exp(V x) {
        return native(
            x, [](double v) { return std::exp(v); }, []<class U>(U, VectorOf<U> v) { return panel::exp<U>(v); });
    }
    static V expm1(V x) {
        return native(
            x, [](double v) { return std::expm1(v); }, []<class U>(U, VectorOf<U> v) { return panel::expm1<U>(v); });
    }
    static V log(V x) {
        return native(
            x, [](double v) { return std::log(v); }, []<class U>(U, VectorOf<U> v) { return panel::log<U>(v); });
    }
    static V log1p(V x) {
        return native(
            x, [](double v) { return std::log1p(v); }, []<class U>(U, VectorOf<U> v) { return panel::log1p<U>(v); });
    }
    static V tanh(V x) {
        return native(
            x, [](double v) { return std::tanh(v); }, []<class U>(U, VectorOf<U> v) { return panel::tanh<U>(v); });
    }
    static V sigmoid(V x) {
        return native(
            x,
            [](double v) {
                const double e = std::exp(-std::abs(v));
                return (v < 0.0 ? e : 1.0) / (1.0 + e);
            },
            []<class U>(U, VectorOf<U> v) { return panel::sigmoid<U>(v); });
    }
    static V softplus(V x) {
        return native(
            x, [](double v) { return (v < 0.0 ? 0.0 : v) + std::log1p(std::exp(-std::abs(v))); },
            []<class U>(U, VectorOf<U> v) { return panel::softplus<U>(v); });
    }
    static V silu(V x) { return x * sigmoid(x); }
    static V gelu_tanh(V x) {
        constexpr T linear = T(1.5957691216057308), cubic = T(0.044715 * 1.5957691216057308);  // 2 sqrt(2 / pi)
        return x * sigmoid(x * W::multiply_add(x * x, W::broadcast(cubic), W::broadcast(linear)));
    }
    static V error_function(V x) {
        const auto libm = [](double v) {
            return std::erf(v);
        };
        if constexpr (kSingle) {
            return native(x, libm, []<class U>(U, VectorOf<U> v) { return panel::error_function<U>(v); });
        } else {
            return each(x, libm);
        }
    }
    static V gelu(V x) {
        constexpr double half_root = 0.70710678118654752;
        if constexpr (kSingle && !kScalar) {
            return T(0.5) * x * (T(1) + panel::error_function<W>(x * T(half_root)));
        } else {
            return each(x, [](double v) { return 0.5 * v * std::erfc(-v * half_root); });
        }
    }
    static V sin(V x) {
        return in_double(
            x, kTrigonometricLimit, [](double v) { return std::sin(v); },
            []<class U>(U, VectorOf<U> v) { return panel::sin<U>(v); });
    }
    static V cos(V x) {
        return in_double(
            x, kTrigonometricLimit, [](double v) { return std::cos(v); },
            []<class U>(U, VectorOf<U> v) { return panel::cos<U>(v); });
    }
    static V tan(V x) {
        return in_double(
            x, kTrigonometricLimit, [](double v) { return std::tan(v); },
            []<class U>(U, VectorOf<U> v) { return panel::tan<U>(v); });
    }
    static V atan(V x) {
        return in_double(
            x, std::numeric_limits<double>::infinity(), [](double v) { return std::atan(v); },
            []<class U>(U, VectorOf<U> v) { return panel::atan<U>(v); });
    }
    static V sinh(V x) {
        return in_double(
            x, kHyperbolicLimit, [](double v) { return std::sinh(v); },
            []<class U>(U, VectorOf<U> v) { return panel::sinh<U>(v); });
    }
    static V cosh(V x) {
        return in_double(
            x, kHyperbolicLimit, [](double v) { return std::cosh(v); },
            []<class U>(U, VectorOf<U> v) { return panel::cosh<U>(v); });
    }
    static V power(V x, V y) {
        if constexpr (kSingle && !kScalar) {
            using U = typename W::template Other<double>;
            return W::narrow(panel::power<U>(W::low(x), W::low(y)), panel::power<U>(W::high(x), W::high(y)));
        } else {
            return each(x, y, [](T a, T b) { return static_cast<T>(std::pow(double{a}, double{b})); });
        }
    }
    static V atan2(V x, V y) {
        return each(x, y, [](T a, T b) { return static_cast<T>(std::atan2(double{a}, double{b})); });
    }
    static V remainder(V x, V y) { return each(x, y, remainder_of<T>); }
    static V floor_divide(V x, V y) { return each(x, y, floor_quotient<T>); }
};

}  // namespace tqs::panel
