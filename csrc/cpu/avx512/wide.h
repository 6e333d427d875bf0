// AVX-512 (F, BW, VL, DQ) as the vectors of cpu/panel's program kernels: Wide<float> and Wide<double>. Arithmetic,
// comparisons and `mask ? a : b` are the compiler's own vector operators; here is what they lack.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tqs::avx512 {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

template <class T>
struct Wide;

template <>
struct Wide<double> {
    using Element = double;
    using Vector = double __attribute__((vector_size(64)));
    using Bits = std::int64_t __attribute__((vector_size(64)));
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 8;

    static Vector broadcast(double value) { return Vector(_mm512_set1_pd(value)); }
    static Vector load(const double* at) { return Vector(_mm512_loadu_pd(at)); }
    static void store(double* at, Vector value) { _mm512_storeu_pd(at, __m512d(value)); }
    // The first `count` lanes, fewer than kLanes; the others of `load_first` are `otherwise`.
    static Vector load_first(const double* at, std::int64_t count, Vector otherwise) {
        return Vector(_mm512_mask_loadu_pd(__m512d(otherwise), first(count), at));
    }
    static void store_first(double* at, Vector value, std::int64_t count) {
        _mm512_mask_storeu_pd(at, first(count), __m512d(value));
    }
    // x 2^k, rounded once; k a whole number.
    static Vector scale(Vector x, Vector k) { return Vector(_mm512_scalef_pd(__m512d(x), __m512d(k))); }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return Vector(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
    }
    static Vector square_root(Vector x) { return Vector(_mm512_sqrt_pd(__m512d(x))); }
    static Vector round(Vector x) { return Vector(_mm512_roundscale_pd(__m512d(x), _MM_FROUND_TO_NEAREST_INT)); }
    static Vector floor(Vector x) { return Vector(_mm512_roundscale_pd(__m512d(x), _MM_FROUND_TO_NEG_INF)); }
    static Vector ceil(Vector x) { return Vector(_mm512_roundscale_pd(__m512d(x), _MM_FROUND_TO_POS_INF)); }
    static Vector trunc(Vector x) { return Vector(_mm512_roundscale_pd(__m512d(x), _MM_FROUND_TO_ZERO)); }
    static bool any(Bits mask) { return _mm512_movepi64_mask(__m512i(mask)) != 0; }

  private:
    static __mmask8 first(std::int64_t count) { return static_cast<__mmask8>((1u << count) - 1u); }
};

template <>
struct Wide<float> {
    using Element = float;
    using Vector = float __attribute__((vector_size(64)));
    using Bits = std::int32_t __attribute__((vector_size(64)));
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 16;

    static Vector broadcast(float value) { return Vector(_mm512_set1_ps(value)); }
    static Vector load(const float* at) { return Vector(_mm512_loadu_ps(at)); }
    static void store(float* at, Vector value) { _mm512_storeu_ps(at, __m512(value)); }
    static Vector load_first(const float* at, std::int64_t count, Vector otherwise) {
        return Vector(_mm512_mask_loadu_ps(__m512(otherwise), first(count), at));
    }
    static void store_first(float* at, Vector value, std::int64_t count) {
        _mm512_mask_storeu_ps(at, first(count), __m512(value));
    }
    // x 2^k, rounded once; k a whole number.
    static Vector scale(Vector x, Vector k) { return Vector(_mm512_scalef_ps(__m512(x), __m512(k))); }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return Vector(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
    }
    static Vector square_root(Vector x) { return Vector(_mm512_sqrt_ps(__m512(x))); }
    static Vector round(Vector x) { return Vector(_mm512_roundscale_ps(__m512(x), _MM_FROUND_TO_NEAREST_INT)); }
    static Vector floor(Vector x) { return Vector(_mm512_roundscale_ps(__m512(x), _MM_FROUND_TO_NEG_INF)); }
    static Vector ceil(Vector x) { return Vector(_mm512_roundscale_ps(__m512(x), _MM_FROUND_TO_POS_INF)); }
    static Vector trunc(Vector x) { return Vector(_mm512_roundscale_ps(__m512(x), _MM_FROUND_TO_ZERO)); }
    static bool any(Bits mask) { return _mm512_movepi32_mask(__m512i(mask)) != 0; }

    // The halves as float64, and back.
    using Half = Wide<double>::Vector;
    static Half low(Vector x) { return Half(_mm512_cvtps_pd(_mm512_castps512_ps256(__m512(x)))); }
    static Half high(Vector x) { return Half(_mm512_cvtps_pd(_mm512_extractf32x8_ps(__m512(x), 1))); }
    static Vector narrow(Half low, Half high) {
        const __m512 first = _mm512_castps256_ps512(_mm512_cvtpd_ps(__m512d(low)));
        return Vector(_mm512_insertf32x8(first, _mm512_cvtpd_ps(__m512d(high)), 1));
    }

  private:
    static __mmask16 first(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
};

}  // namespace
}  // namespace tqs::avx512
