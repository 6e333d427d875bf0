// AVX2 and FMA as the vector of cpu/panel.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "cpu/panel/decode.h"

namespace tqs::avx2 {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

struct Vector {
    using Float = __m256;
    using Int = __m256i;
    static constexpr int kLanes = 8;
    static constexpr int kPanel = 16;
    static constexpr int kRegisters = 16;
    static constexpr int kRows = 4;  // of a block of qgemm (panel/qgemm.h)

    static Float broadcast(float value) { return _mm256_set1_ps(value); }
    static Float load(const float* aligned) { return _mm256_load_ps(aligned); }
    static void store(float* aligned, Float value) { _mm256_store_ps(aligned, value); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float accumulate(Float sum, Float a, Float b) { return multiply_add(a, b, sum); }

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

    // Rounded to bfloat16 (core/half.h), to any address.
    static void store_bfloat16(void* at, Float value) {
        const __m256i bits = _mm256_castps_si256(value), high = _mm256_srli_epi32(bits, 16);
        const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), _mm256_and_si256(high, _mm256_set1_epi32(1)));
        const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
        const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x0040));
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        const __m256i result = _mm256_blendv_epi8(rounded, quiet, nan);
        _mm_storeu_si128(static_cast<__m128i_u*>(at),
                         _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1)));
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

    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float load_unaligned(const void* at) { return _mm256_loadu_ps(static_cast<const float*>(at)); }

    // Integers of 32 bits, and bytes in fours.
    static Int broadcast_int(std::int32_t value) { return _mm256_set1_epi32(value); }
    static Int load_int(const void* aligned) { return _mm256_load_si256(static_cast<const __m256i*>(aligned)); }
    static Int widen_bytes(const void* bytes) { return _mm256_cvtepu8_epi32(_mm_loadu_si64(bytes)); }
    static Int multiply_int(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
    static void store_unaligned(void* at, Float value) { _mm256_storeu_ps(static_cast<float*>(at), value); }
    static Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
    static std::int32_t total(Int value) {
        alignas(32) std::int32_t lanes[kLanes];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), value);
        std::int32_t sum = 0;
        for (const std::int32_t lane : lanes) sum += lane;
        return sum;
    }
    static Int max_int(Int a, Int b) { return _mm256_max_epi32(a, b); }
    static std::int32_t largest(Int value) {
        alignas(32) std::int32_t lanes[kLanes];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), value);
        return *std::max_element(lanes, lanes + kLanes);
    }
    static Int magnitude(Float value) {
        return _mm256_and_si256(_mm256_castps_si256(value), _mm256_set1_epi32(0x7FFFFFFF));
    }
    static Int round(Float value) { return _mm256_cvtps_epi32(value); }
    static Float to_float(Float value) { return value; }
    static Float to_float(Int value) { return _mm256_cvtepi32_ps(value); }
    // The low bytes, of numbers in [-128, 127].
    static void store_bytes(std::int8_t* at, Int value) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
        _mm_storeu_si64(at, _mm_packs_epi16(words, words));
    }
    // Sixteen bytes, byte i from `order[i]`.
    static void reorder_bytes(std::int8_t* bytes, const std::uint8_t* order) {
        auto* at = reinterpret_cast<__m128i_u*>(bytes);
        _mm_storeu_si128(at, _mm_shuffle_epi8(_mm_loadu_si128(at), *reinterpret_cast<const __m128i*>(order)));
    }
    template <int bits>
    static Int shift_right(Int words) {
        return _mm256_srli_epi32(words, bits);
    }
    // Bit 3 of every field of four bits, of three words: they are bits 0, 1, 2 of the result's.
    static Int spare_bits(Int first, Int second, Int third) {
        const Int bit0 = _mm256_and_si256(_mm256_srli_epi32(first, 3), _mm256_set1_epi32(0x11111111));
        const Int bit1 = _mm256_and_si256(_mm256_srli_epi32(second, 2), _mm256_set1_epi32(0x22222222));
        const Int bit2 = _mm256_and_si256(_mm256_srli_epi32(third, 1), _mm256_set1_epi32(0x44444444));
        return _mm256_or_si256(_mm256_or_si256(bit0, bit1), bit2);
    }
    static constexpr int code_offset(int) { return 0; }  // the dot products take unsigned codes
    // The low bits of every byte.
    template <int bits>
    static Int low_bits(Int words) {
        if constexpr (bits == 8) return words;
        return _mm256_and_si256(words, _mm256_set1_epi8((1 << bits) - 1));
    }
    // sum + four products of codes (unsigned bytes) and x (signed bytes). Pairs of products of up to 4 bits fit 16 bits
    // (2 * 15 * 127); with 8 bits they would saturate, so that even and odd bytes are widened first.
    template <int bits>
    static Int dot(Int sum, Int codes, Int x) {
        if constexpr (bits == 8) {
            const Int even = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0xFF)),
                                               _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
            const Int odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
            return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
        } else {
            const Int pairs = _mm256_maddubs_epi16(codes, x);
            return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }

    // The lowest code of every word less its zero point, of which symmetric weights have one.
    template <int bits, bool symmetric>
    class Decoder {
      public:
        Decoder() = default;
        Decoder(const std::uint8_t* zeros, int zero)
            : zero_(symmetric ? broadcast(static_cast<float>(zero)) : to_float(widen_bytes(zeros))) {}
        Float operator()(Int words) const {
            return sub(to_float(_mm256_and_si256(words, broadcast_int((1 << bits) - 1))), zero_);
        }

      private:
        Float zero_;
    };

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
