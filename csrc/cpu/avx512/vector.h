// AVX-512 (F, BW, VL, DQ) as the vector of cpu/panel.
#pragma once

#include <immintrin.h>

#include "cpu/panel/decode.h"

namespace tqs::avx512 {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

struct Vector {
    using Float = __m512;
    static constexpr int kLanes = 16;
    static constexpr int kPanel = 32;  // two vectors: enough independent sums to cover the latency at kRows >= 4
    static constexpr int kRows = 8;    // 16 sums, 2 weights and a broadcast of 32 registers

    static Float broadcast(float value) { return _mm512_set1_ps(value); }
    static Float load(const float* aligned) { return _mm512_load_ps(aligned); }
    static void store(float* aligned, Float value) { _mm512_store_ps(aligned, value); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }

    // The first `count` (at least 1) lanes.
    static __mmask16 first(std::int64_t count) {
        return count >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << count) - 1u);
    }
    static void store_partial(float* out, Float value, std::int64_t count) {
        _mm512_mask_storeu_ps(out, first(count), value);
    }

    // Sixteen bfloat16 at any address.
    static Float widen(const void* bfloat16) {
        const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i_u*>(bfloat16));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }

    // Codes 0 ... 15 at `bytes`, of which `count` exist.
    template <int bits>
    static Float codes(const std::uint8_t* bytes, std::int64_t count) {
        if constexpr (bits == 8) {
            return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), bytes)));
        } else {
            const auto low = static_cast<int>(panel::code_word<bits>(bytes, count));
            const auto high = static_cast<int>(panel::code_word<bits>(bytes + bits, count - 8));
            const __m512i words = _mm512_mask_set1_epi32(_mm512_set1_epi32(low), __mmask16{0xFF00}, high);
            const __m512i shifts =
                _mm512_setr_epi32(0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits, 0, bits,
                                  2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits);
            const __m512i mask = _mm512_set1_epi32((1 << bits) - 1);
            return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srlv_epi32(words, shifts), mask));
        }
    }

    // One row of prepacked codes (panel/layout.h).
    template <int bits>
    static void unpack(const std::uint8_t* row, Float (&out)[2]) {
        const __m512i low = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(row)));
        if constexpr (bits == 8) {
            const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(row + kLanes));
            out[0] = _mm512_cvtepi32_ps(low);
            out[1] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(high));
        } else {
            out[0] = _mm512_cvtepi32_ps(_mm512_and_si512(low, _mm512_set1_epi32(15)));
            out[1] = _mm512_cvtepi32_ps(_mm512_srli_epi32(low, 4));
        }
    }

    // rows[i] lane j <-> rows[j] lane i: pairs and quads inside the 128-bit parts, then the parts themselves.
    static void transpose(Float (&rows)[kLanes]) {
        Float quads[kLanes];
        for (int i = 0; i < kLanes; i += 4) {
            const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i], rows[i + 1]));
            const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i], rows[i + 1]));
            const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i + 2], rows[i + 3]));
            const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i + 2], rows[i + 3]));
            quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
            quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
            quads[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
            quads[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
        }
        constexpr int even = 0x88, odd = 0xDD;
        for (int i = 0; i < 4; ++i) {
            const Float even_low = _mm512_shuffle_f32x4(quads[i], quads[4 + i], even);
            const Float odd_low = _mm512_shuffle_f32x4(quads[i], quads[4 + i], odd);
            const Float even_high = _mm512_shuffle_f32x4(quads[8 + i], quads[12 + i], even);
            const Float odd_high = _mm512_shuffle_f32x4(quads[8 + i], quads[12 + i], odd);
            rows[i] = _mm512_shuffle_f32x4(even_low, even_high, even);
            rows[4 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, even);
            rows[8 + i] = _mm512_shuffle_f32x4(even_low, even_high, odd);
            rows[12 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, odd);
        }
    }
};

}  // namespace
}  // namespace tqs::avx512
