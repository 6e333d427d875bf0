// AVX-512 (F, BW, VL, DQ, VNNI) as the vector of cpu/panel.
#pragma once

#include <immintrin.h>

#include "cpu/panel/decode.h"

namespace tqs::avx512 {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

struct Vector {
    using Float = __m512;
    using Int = __m512i;
    static constexpr int kLanes = 16;
    static constexpr int kPanel = 32;
    static constexpr int kRegisters = 32;
    static constexpr int kRows = 9;  // of a block of qgemm (panel/qgemm.h)

    static Float broadcast(float value) { return _mm512_set1_ps(value); }
    static Float load(const float* aligned) { return _mm512_load_ps(aligned); }
    static void store(float* aligned, Float value) { _mm512_store_ps(aligned, value); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }

    // sum + a b, in a loop that holds many sums: of the intrinsic GCC 12 copies some.
    static Float accumulate(Float sum, Float a, Float b) {
        __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }

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

    // Rounded to bfloat16 (core/half.h), to any address.
    static void store_bfloat16(void* at, Float value) {
        const Int bits = _mm512_castps_si512(value), high = _mm512_srli_epi32(bits, 16);
        const Int half = _mm512_add_epi32(_mm512_set1_epi32(0x7FFF), _mm512_and_si512(high, _mm512_set1_epi32(1)));
        const Int rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
        const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
        const Int result = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x0040));
        _mm256_storeu_si256(static_cast<__m256i_u*>(at), _mm512_cvtepi32_epi16(result));
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

    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float load_unaligned(const void* at) { return _mm512_loadu_ps(at); }

    // Integers of 32 bits, and bytes in fours.
    static Int broadcast_int(std::int32_t value) { return _mm512_set1_epi32(value); }
    static Int load_int(const void* aligned) { return _mm512_load_si512(aligned); }
    static Int widen_bytes(const void* bytes) {
        return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i_u*>(bytes)));
    }
    static Int multiply_int(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
    static void store_unaligned(void* at, Float value) { _mm512_storeu_ps(at, value); }
    static Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static std::int32_t total(Int value) { return _mm512_reduce_add_epi32(value); }
    static Int max_int(Int a, Int b) { return _mm512_max_epi32(a, b); }
    static std::int32_t largest(Int value) { return _mm512_reduce_max_epi32(value); }
    static Int magnitude(Float value) {
        return _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(0x7FFFFFFF));
    }
    static Int round(Float value) { return _mm512_cvtps_epi32(value); }
    static Float to_float(Float value) { return value; }
    static Float to_float(Int value) { return _mm512_cvtepi32_ps(value); }
    // The low bytes, of numbers in [-128, 127].
    static void store_bytes(std::int8_t* at, Int value) {
        _mm_storeu_si128(reinterpret_cast<__m128i_u*>(at), _mm512_cvtepi32_epi8(value));
    }
    // Sixteen bytes, byte i from `order[i]`.
    static void reorder_bytes(std::int8_t* bytes, const std::uint8_t* order) {
        auto* at = reinterpret_cast<__m128i_u*>(bytes);
        _mm_storeu_si128(at, _mm_shuffle_epi8(_mm_loadu_si128(at), *reinterpret_cast<const __m128i*>(order)));
    }
    template <int bits>
    static Int shift_right(Int words) {
        return _mm512_srli_epi32(words, bits);
    }
    // Bit 3 of every field of four bits, of three words: they are bits 0, 1, 2 of the result's, whose bits 3 are any.
    static Int spare_bits(Int first, Int second, Int third) {
        const Int mask0 = _mm512_set1_epi32(0x11111111), mask1 = _mm512_set1_epi32(0x22222222);
        constexpr int select = 0xCA;  // where the first operand has a bit the second, else the third
        const Int upper =
            _mm512_ternarylogic_epi32(mask1, _mm512_srli_epi32(second, 2), _mm512_srli_epi32(third, 1), select);
        return _mm512_ternarylogic_epi32(mask0, _mm512_srli_epi32(first, 3), upper, select);
    }
    static constexpr int code_offset(int) { return 0; }  // the dot products take unsigned codes
    // The low bits of every byte.
    template <int bits>
    static Int low_bits(Int words) {
        if constexpr (bits == 8) return words;
        return _mm512_and_si512(words, _mm512_set1_epi8((1 << bits) - 1));
    }
    // sum + four products of codes (unsigned bytes) and x (signed bytes).
    template <int bits>
    static Int dot(Int sum, Int codes, Int x) {
        // Of _mm512_dpbusd_epi32 GCC 12 makes a copy of the sum for every product.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
        return sum;
    }

    // The lowest code of every word less its zero point, of which symmetric weights have one.
    template <int bits, bool symmetric>
    class Decoder {
      public:
        Decoder() = default;
        Decoder(const std::uint8_t* zeros, int zero) {
            if constexpr (bits == 8) {  // a code in the lowest bits of 2^23 makes 2^23 + code
                offset_ = symmetric ? broadcast(0x1p23f + static_cast<float>(zero))
                                    : add(broadcast(0x1p23f), to_float(widen_bytes(zeros)));
            } else {  // bits above the code do not change what is looked up
                const __m512i codes =
                    _mm512_and_si512(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                     broadcast_int((1 << bits) - 1));
                values_ = to_float(symmetric ? _mm512_sub_epi32(codes, broadcast_int(zero)) : codes);
                if constexpr (!symmetric) offset_ = to_float(widen_bytes(zeros));
            }
        }
        Float operator()(Int words) const {
            if constexpr (bits == 8) {
                constexpr int masked_or = 0xEA;  // (words & mask) | 2^23
                const Int number =
                    _mm512_ternarylogic_epi32(words, broadcast_int(0xFF), broadcast_int(0x4B000000), masked_or);
                return sub(_mm512_castsi512_ps(number), offset_);
            } else {
                const Float value = _mm512_permutexvar_ps(words, values_);
                return symmetric ? value : sub(value, offset_);
            }
        }

      private:
        Float values_, offset_;
    };

    // sum + two products of bfloat16; products and sums below 2^-126 are zero. Not every processor with VNNI has it.
    static Float dot_pairs(Float sum, Int a, Int b) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // copies, as above
        return sum;
    }

    // The lowest codes of both halves of every word, less their zero points, as bfloat16, in which they are exact: up
    // to 4 bits by one look-up of 32 values, of 8 bits as the upper halves of two floats.
    template <int bits, bool symmetric>
    class PairDecoder {
      public:
        PairDecoder() = default;
        PairDecoder(const std::uint8_t* zeros, int zero) : decoder_(zeros, zero) {
            if constexpr (bits < 8) {
                const Int number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                // Symmetric: index u, of whose five bits the upper ones do not matter; else u - z in [-15, 15].
                const Int low = symmetric ? _mm512_castps_si512(decoder_(number)) : pattern(number);
                const Int high = symmetric ? low : pattern(_mm512_sub_epi32(number, broadcast_int(16)));
                values_ = _mm512_inserti64x4(_mm512_castsi256_si512(upper(low)), upper(high), 1);
                if constexpr (!symmetric) zeros_ = _mm512_mullo_epi32(widen_bytes(zeros), broadcast_int(0x00010001));
            }
        }
        Int operator()(Int words) const {
            if constexpr (bits == 8) {
                const Int low = _mm512_castps_si512(decoder_(words));
                const Int high = _mm512_castps_si512(decoder_(_mm512_srli_epi32(words, 16)));
                return _mm512_or_si512(_mm512_srli_epi32(low, 16), high);
            } else if constexpr (symmetric) {
                return _mm512_permutexvar_epi16(words, values_);
            } else {
                const Int codes = _mm512_and_si512(words, broadcast_int(0x00010001 * ((1 << bits) - 1)));
                return _mm512_permutexvar_epi16(_mm512_sub_epi16(codes, zeros_), values_);
            }
        }

      private:
        static Int pattern(Int value) { return _mm512_castps_si512(to_float(value)); }
        static __m256i upper(Int words) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)); }

        Decoder<bits, symmetric> decoder_;
        Int values_, zeros_;
    };

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
