#include "cpu/panel/attention.h"

#include <immintrin.h>

#include "cpu/avx2/kernels.h"

namespace tqs::avx2 {
namespace {

struct Float32 {
    using Element = float;
    using Vector = __m256;
    using Word = std::uint32_t;
    typedef Word Words __attribute__((vector_size(32)));
    static constexpr int kLanes = 8;
    static constexpr int kRows = 4;
    static constexpr int kValueSums = 8, kValueColumns = 2;
    static constexpr int kFewQueries = 4;

    static __m256i first(std::int64_t count) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < kLanes ? count : kLanes)), lanes);
    }
    static Vector broadcast(Element value) { return _mm256_set1_ps(value); }
    static Vector load(const Element* aligned) { return _mm256_load_ps(aligned); }
    static Vector load_any(const Element* at) { return _mm256_loadu_ps(at); }
    static Vector load_partial(const Element* at, std::int64_t count) { return _mm256_maskload_ps(at, first(count)); }
    static void store(Element* aligned, Vector value) { _mm256_store_ps(aligned, value); }
    static void store_partial(Element* at, Vector value, std::int64_t count) {
        _mm256_maskstore_ps(at, first(count), value);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
};

struct Float64 {
    using Element = double;
    using Vector = __m256d;
    using Word = std::uint64_t;
    typedef Word Words __attribute__((vector_size(32)));
    static constexpr int kLanes = 4;
    static constexpr int kRows = 4;
    static constexpr int kValueSums = 8, kValueColumns = 2;
    static constexpr int kFewQueries = 2;

    static __m256i first(std::int64_t count) {
        const __m256i lanes = _mm256_setr_epi64x(0, 1, 2, 3);
        return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count < kLanes ? count : kLanes), lanes);
    }
    static Vector broadcast(Element value) { return _mm256_set1_pd(value); }
    static Vector load(const Element* aligned) { return _mm256_load_pd(aligned); }
    static Vector load_any(const Element* at) { return _mm256_loadu_pd(at); }
    static Vector load_partial(const Element* at, std::int64_t count) { return _mm256_maskload_pd(at, first(count)); }
    static void store(Element* aligned, Vector value) { _mm256_store_pd(aligned, value); }
    static void store_partial(Element* at, Vector value, std::int64_t count) {
        _mm256_maskstore_pd(at, first(count), value);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
};

}  // namespace

constinit const AttentionKernels kAttention[kPrecisions] = {
    {panel::attention_scratch<Float32>, panel::attention<Float32>},
    {panel::attention_scratch<Float64>, panel::attention<Float64>},
};

}  // namespace tqs::avx2
