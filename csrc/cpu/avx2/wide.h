// AVX2 and FMA as the vectors of cpu/panel's program kernels: Wide<float> and Wide<double>. Arithmetic, comparisons and
// `mask ? a : b` are the compiler's own vector operators; here is what they lack.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tqs::avx2 {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

template <class T>
struct Wide;

template <>
struct Wide<double> {
    using Element = double;
    using Vector = double __attribute__((vector_size(32)));
    using Bits = std::int64_t __attribute__((vector_size(32)));
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 4;

    static Vector broadcast(double value) { return Vector(_mm256_set1_pd(value)); }
    static Vector load(const double* at) { return Vector(_mm256_loadu_pd(at)); }
    static void store(double* at, Vector value) { _mm256_storeu_pd(at, __m256d(value)); }
    // The first `count` lanes, fewer than kLanes; the others of `load_first` are `otherwise`.
    static Vector load_first(const double* at, std::int64_t count, Vector otherwise) {
        const __m256i mask = first(count);
        return Vector(_mm256_blendv_pd(__m256d(otherwise), _mm256_maskload_pd(at, mask), __m256d(mask)));
    }
    static void store_first(double* at, Vector value, std::int64_t count) {
        _mm256_maskstore_pd(at, first(count), __m256d(value));
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return Vector(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
    }
    static Vector square_root(Vector x) { return Vector(_mm256_sqrt_pd(__m256d(x))); }
    static Vector round(Vector x) {
        return Vector(_mm256_round_pd(__m256d(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static Vector floor(Vector x) {
        return Vector(_mm256_round_pd(__m256d(x), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    }
    static Vector ceil(Vector x) {
        return Vector(_mm256_round_pd(__m256d(x), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
    }
    static Vector trunc(Vector x) {
        return Vector(_mm256_round_pd(__m256d(x), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC));
    }
    static bool any(Bits mask) { return _mm256_movemask_pd(__m256d(mask)) != 0; }

  private:
    static __m256i first(std::int64_t count) {
        return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
    }
};

template <>
struct Wide<float> {
    using Element = float;
    using Vector = float __attribute__((vector_size(32)));
    using Bits = std::int32_t __attribute__((vector_size(32)));
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 8;

    static Vector broadcast(float value) { return Vector(_mm256_set1_ps(value)); }
    static Vector load(const float* at) { return Vector(_mm256_loadu_ps(at)); }
    static void store(float* at, Vector value) { _mm256_storeu_ps(at, __m256(value)); }
    static Vector load_first(const float* at, std::int64_t count, Vector otherwise) {
        const __m256i mask = first(count);
        return Vector(_mm256_blendv_ps(__m256(otherwise), _mm256_maskload_ps(at, mask), __m256(mask)));
    }
    static void store_first(float* at, Vector value, std::int64_t count) {
        _mm256_maskstore_ps(at, first(count), __m256(value));
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return Vector(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
    }
    static Vector square_root(Vector x) { return Vector(_mm256_sqrt_ps(__m256(x))); }
    static Vector round(Vector x) {
        return Vector(_mm256_round_ps(__m256(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static Vector floor(Vector x) {
        return Vector(_mm256_round_ps(__m256(x), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    }
    static Vector ceil(Vector x) {
        return Vector(_mm256_round_ps(__m256(x), _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
    }
    static Vector trunc(Vector x) { return Vector(_mm256_round_ps(__m256(x), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)); }
    static bool any(Bits mask) { return _mm256_movemask_ps(__m256(mask)) != 0; }

    // The halves as float64, and back.
    using Half = Wide<double>::Vector;
    static Half low(Vector x) { return Half(_mm256_cvtps_pd(_mm256_castps256_ps128(__m256(x)))); }
    static Half high(Vector x) { return Half(_mm256_cvtps_pd(_mm256_extractf128_ps(__m256(x), 1))); }
    static Vector narrow(Half low, Half high) {
        return Vector(_mm256_set_m128(_mm256_cvtpd_ps(__m256d(high)), _mm256_cvtpd_ps(__m256d(low))));
    }

  private:
    static __m256i first(std::int64_t count) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
};

}  // namespace
}  // namespace tqs::avx2
