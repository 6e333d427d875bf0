#include "cpu/panel/attention.h"

#include <immintrin.h>

#include "cpu/avx512/kernels.h"

namespace tqs::avx512 {
namespace {

struct Float32 {
    using Element = float;
    using Vector = __m512;
    using Word = std::uint32_t;
    typedef Word Words __attribute__((vector_size(64)));
    static constexpr int kLanes = 16;
    static constexpr int kRows = 8;
    static constexpr int kValueSums = 16, kValueColumns = 4;
    static constexpr int kFewQueries = 9;

    static __mmask16 first(std::int64_t count) {
        return count >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1u);
    }
    static Vector broadcast(Element value) { return _mm512_set1_ps(value); }
    static Vector load(const Element* aligned) { return _mm512_load_ps(aligned); }
    static Vector load_any(const Element* at) { return _mm512_loadu_ps(at); }
    static Vector load_partial(const Element* at, std::int64_t count) {
        return _mm512_maskz_loadu_ps(first(count), at);
    }
    static void store(Element* aligned, Vector value) { _mm512_store_ps(aligned, value); }
    static void store_partial(Element* at, Vector value, std::int64_t count) {
        _mm512_mask_storeu_ps(at, first(count), value);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
};

struct Float64 {
    using Element = double;
    using Vector = __m512d;
    using Word = std::uint64_t;
    typedef Word Words __attribute__((vector_size(64)));
    static constexpr int kLanes = 8;
    static constexpr int kRows = 8;
    static constexpr int kValueSums = 16, kValueColumns = 4;
    static constexpr int kFewQueries = 4;

    static __mmask8 first(std::int64_t count) {
        return count >= kLanes ? __mmask8{0xFF} : static_cast<__mmask8>((1u << count) - 1u);
    }
    static Vector broadcast(Element value) { return _mm512_set1_pd(value); }
    static Vector load(const Element* aligned) { return _mm512_load_pd(aligned); }
    static Vector load_any(const Element* at) { return _mm512_loadu_pd(at); }
    static Vector load_partial(const Element* at, std::int64_t count) {
        return _mm512_maskz_loadu_pd(first(count), at);
    }
    static void store(Element* aligned, Vector value) { _mm512_store_pd(aligned, value); }
    static void store_partial(Element* at, Vector value, std::int64_t count) {
        _mm512_mask_storeu_pd(at, first(count), value);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
};

}  // namespace

constinit const AttentionKernels kAttention[kPrecisions] = {
    {panel::attention_scratch<Float32>, panel::attention<Float32>},
    {panel::attention_scratch<Float64>, panel::attention<Float64>},
};

}  // namespace tqs::avx512
