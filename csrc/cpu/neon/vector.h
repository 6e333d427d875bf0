// NEON (ASIMD) with dot products of bytes as the vector of cpu/panel.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace tqs::neon {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

struct Vector {
    using Float = float32x4_t;
    using Int = int32x4_t;
    static constexpr int kLanes = 4;
    static constexpr int kPanel = 8;
    static constexpr int kRegisters = 32;
    // Of a block of qgemm (panel/qgemm.h). 16 parts: cores with four multiply-adds per cycle at a latency of four need
    // as many, and the other half of the registers holds codes, x and sums.
    static constexpr int kRows = 8;

    static Float broadcast(float value) { return vdupq_n_f32(value); }
    static Float load(const float* aligned) { return vld1q_f32(aligned); }
    static void store(float* aligned, Float value) { vst1q_f32(aligned, value); }
    static Float load_unaligned(const void* at) {
        return vreinterpretq_f32_u8(vld1q_u8(static_cast<const std::uint8_t*>(at)));
    }
    static void store_unaligned(void* at, Float value) {
        vst1q_u8(static_cast<std::uint8_t*>(at), vreinterpretq_u8_f32(value));
    }
    static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
    static Float add(Float a, Float b) { return vaddq_f32(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
    static Float accumulate(Float sum, Float a, Float b) { return vfmaq_f32(sum, a, b); }

    // The first `count` (at least 1) lanes, to any address.
    static void store_partial(float* out, Float value, std::int64_t count) {
        if (count >= kLanes) return store_unaligned(out, value);
        float32x2_t rest = vget_low_f32(value);
        if (count >= 2) {
            std::memcpy(out, &rest, sizeof rest);
            out += 2;
            rest = vget_high_f32(value);
        }
        if (count % 2 == 1) std::memcpy(out, &rest, sizeof(float));
    }

    // Four bfloat16 at any address.
    static Float widen(const void* bfloat16) {
        const uint16x4_t bits = vreinterpret_u16_u8(vld1_u8(static_cast<const std::uint8_t*>(bfloat16)));
        return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
    }

    // Rounded to bfloat16 (core/half.h), to any address.
    static void store_bfloat16(void* at, Float value) {
        const uint32x4_t bits = vreinterpretq_u32_f32(value), high = vshrq_n_u32(bits, 16);
        const uint32x4_t half = vaddq_u32(vdupq_n_u32(0x7FFF), vandq_u32(high, vdupq_n_u32(1)));
        const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, half), 16);
        const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x0040));
        const uint32x4_t result = vbslq_u32(vceqq_f32(value, value), rounded, quiet);  // NaN is not equal to itself
        vst1_u8(static_cast<std::uint8_t*>(at), vreinterpret_u8_u16(vmovn_u32(result)));
    }

    // Integers of 32 bits, and bytes in fours.
    static Int broadcast_int(std::int32_t value) { return vdupq_n_s32(value); }
    static Int load_int(const void* aligned) { return vld1q_s32(static_cast<const std::int32_t*>(aligned)); }
    static Int widen_bytes(const void* bytes) {
        std::uint32_t word;
        std::memcpy(&word, bytes, sizeof word);
        const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(word)));
        return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
    }
    static Int multiply_int(Int a, Int b) { return vmulq_s32(a, b); }
    static Int add_int(Int a, Int b) { return vaddq_s32(a, b); }
    static std::int32_t total(Int value) { return vaddvq_s32(value); }
    static Int max_int(Int a, Int b) { return vmaxq_s32(a, b); }
    static std::int32_t largest(Int value) { return vmaxvq_s32(value); }
    static Int magnitude(Float value) { return vandq_s32(vreinterpretq_s32_f32(value), broadcast_int(0x7FFFFFFF)); }
    static Int round(Float value) { return vcvtnq_s32_f32(value); }
    static Float to_float(Float value) { return value; }
    static Float to_float(Int value) { return vcvtq_f32_s32(value); }
    // The low bytes, of numbers in [-128, 127].
    static void store_bytes(std::int8_t* at, Int value) {
        const int16x4_t halves = vmovn_s32(value);
        const int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
        std::memcpy(at, &bytes, kLanes);
    }
    // Sixteen bytes, byte i from `order[i]`.
    static void reorder_bytes(std::int8_t* bytes, const std::uint8_t* order) {
        vst1q_s8(bytes, vqtbl1q_s8(vld1q_s8(bytes), vld1q_u8(order)));
    }
    template <int bits>
    static Int shift_right(Int words) {
        return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(words), bits));
    }

    // Bit 3 of every field of four bits, of three words: they are bits 0, 1, 2 of the result's, whose bits 3 are any.
    static Int spare_bits(Int first, Int second, Int third) {
        const uint32x4_t mask0 = vdupq_n_u32(0x11111111), mask1 = vdupq_n_u32(0x22222222);
        const Int upper = vbslq_s32(mask1, shift_right<2>(second), shift_right<1>(third));
        return vbslq_s32(mask0, shift_right<3>(first), upper);
    }

    // The dot products take signed bytes: codes of up to 4 bits as they are, of 8 bits less 128.
    static constexpr int code_offset(int bits) { return bits == 8 ? 128 : 0; }
    // The low bits of every byte, less code_offset.
    template <int bits>
    static Int low_bits(Int words) {
        const uint8x16_t bytes = vreinterpretq_u8_s32(words);
        if constexpr (bits == 8) return vreinterpretq_s32_u8(veorq_u8(bytes, vdupq_n_u8(0x80)));
        return vreinterpretq_s32_u8(vandq_u8(bytes, vdupq_n_u8((1 << bits) - 1)));
    }
    // sum + four products of such codes and x (signed bytes).
    template <int bits>
    static Int dot(Int sum, Int codes, Int x) {
        return vdotq_s32(sum, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(x));
    }

    // The lowest code of every word less its zero point, of which symmetric weights have one: in the lowest bits of
    // 2^23 a code makes 2^23 + code, from which 2^23 + zero is subtracted, both exactly.
    template <int bits, bool symmetric>
    class Decoder {
      public:
        Decoder() = default;
        Decoder(const std::uint8_t* zeros, int zero)
            : offset_(symmetric ? broadcast(kBase + static_cast<float>(zero))
                                : vaddq_f32(broadcast(kBase), to_float(widen_bytes(zeros)))) {}
        Float operator()(Int words) const {
            const uint32x4_t mask = vdupq_n_u32((1u << bits) - 1u);
            const Float number = vbslq_f32(mask, vreinterpretq_f32_s32(words), broadcast(kBase));
            return vsubq_f32(number, offset_);
        }

      private:
        static constexpr float kBase = 0x1p23f;
        Float offset_;
    };

    // rows[i] lane j <-> rows[j] lane i: pairs, then halves.
    static void transpose(Float (&rows)[kLanes]) {
        const Float even01 = vtrn1q_f32(rows[0], rows[1]), odd01 = vtrn2q_f32(rows[0], rows[1]);
        const Float even23 = vtrn1q_f32(rows[2], rows[3]), odd23 = vtrn2q_f32(rows[2], rows[3]);
        rows[0] = join_low(even01, even23);
        rows[1] = join_low(odd01, odd23);
        rows[2] = join_high(even01, even23);
        rows[3] = join_high(odd01, odd23);
    }

  private:
    static Float join_low(Float a, Float b) { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }
    static Float join_high(Float a, Float b) { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }
};

}  // namespace
}  // namespace tqs::neon
