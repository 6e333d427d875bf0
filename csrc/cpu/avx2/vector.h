// AVX2 and FMA as the vector of cpu/panel.
#pragma once

#include <immintrin.h>

#include "cpu/panel/decode.h"

namespace tqs::avx2 {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

struct Vector {
    using Float = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kPanel = 16;
    static constexpr int kRows = 6;  // 12 sums, 2 weights and a broadcast of 16 registers

    static Float broadcast(float value) { return _mm256_set1_ps(value); }
    static Float load(const float* aligned) { return _mm256_load_ps(aligned); }
    static void store(float* aligned, Float value) { _mm256_store_ps(aligned, value); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }

    // The first `count` (at least 1) lanes.
    static void store_partial(float* out, Float value, std::int64_t count) {
        if (count >= kLanes) return _mm256_storeu_ps(out, value);
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_maskstore_ps(out, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes), value);
    }

    // Eight bfloat16 at any address.
    static Float widen(const void* bfloat16) {
        const __m128i bits = _mm_loadu_si128(static_cast<const __m128i_u*>(bfloat16));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }

    static Float from_bytes(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }

    // Codes 0 ... 7 at `bytes`, of which `count` exist.
    template <int bits>
    static Float codes(const std::uint8_t* bytes, std::int64_t count) {
        if constexpr (bits == 8) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes, count >= kLanes ? std::size_t{kLanes} : static_cast<std::size_t>(count));
            return from_bytes(_mm_cvtsi64_si128(static_cast<long long>(word)));
        } else {
            const __m256i words = _mm256_set1_epi32(static_cast<int>(panel::code_word<bits>(bytes, count)));
            const __m256i shifts =
                _mm256_setr_epi32(0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits);
            const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
            return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srlv_epi32(words, shifts), mask));
        }
    }

    // One row of prepacked codes (panel/layout.h).
    template <int bits>
    static void unpack(const std::uint8_t* row, Float (&out)[2]) {
        const __m128i low = _mm_loadu_si64(row);
        if constexpr (bits == 8) {
            out[0] = from_bytes(low);
            out[1] = from_bytes(_mm_loadu_si64(row + kLanes));
        } else {
            const __m128i mask = _mm_set1_epi8(15);
            out[0] = from_bytes(_mm_and_si128(low, mask));
            out[1] = from_bytes(_mm_and_si128(_mm_srli_epi16(low, 4), mask));
        }
    }

    // rows[i] lane j <-> rows[j] lane i: pairs and quads inside the 128-bit halves, then the halves themselves.
    static void transpose(Float (&rows)[kLanes]) {
        Float quads[kLanes];
        for (int i = 0; i < kLanes; i += 4) {
            const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i], rows[i + 1]));
            const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i], rows[i + 1]));
            const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i + 2], rows[i + 3]));
            const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i + 2], rows[i + 3]));
            quads[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
            quads[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
            quads[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
            quads[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
        }
        for (int i = 0; i < 4; ++i) {
            rows[i] = _mm256_permute2f128_ps(quads[i], quads[4 + i], 0x20);
            rows[4 + i] = _mm256_permute2f128_ps(quads[i], quads[4 + i], 0x31);
        }
    }
};

}  // namespace
}  // namespace tqs::avx2
