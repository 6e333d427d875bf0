#include "cpu/panel/dequantize.h"

#include <arm_neon.h>

#include "cpu/neon/kernels.h"

namespace tqs::neon {
namespace {

// Two vectors side by side: four codes of 3 bits are no whole bytes.
struct Eight {
    using Float = float32x4x2_t;
    static constexpr int kLanes = 8;

    static Float broadcast(float value) { return {{vdupq_n_f32(value), vdupq_n_f32(value)}}; }
    static Float mul(Float a, Float b) { return {{vmulq_f32(a.val[0], b.val[0]), vmulq_f32(a.val[1], b.val[1])}}; }
    static Float sub(Float a, Float b) { return {{vsubq_f32(a.val[0], b.val[0]), vsubq_f32(a.val[1], b.val[1])}}; }

    // The first `count` (at least 1) lanes.
    static void store_partial(float* out, Float value, std::int64_t count) {
        if (count >= kLanes) return vst1q_f32_x2(out, value);
        float lanes[kLanes];
        vst1q_f32_x2(lanes, value);
        std::memcpy(out, lanes, static_cast<std::size_t>(count) * sizeof(float));
    }

    // Codes 0 ... 7 at `bytes`, of which `count` exist.
    template <int bits>
    static Float codes(const std::uint8_t* bytes, std::int64_t count) {
        if constexpr (bits == 8) {
            std::uint8_t all[kLanes] = {};
            std::memcpy(all, bytes, static_cast<std::size_t>(std::min<std::int64_t>(count, kLanes)));
            const uint16x8_t wide = vmovl_u8(vld1_u8(all));
            return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))}};
        } else {
            const uint32x4_t word = vdupq_n_u32(panel::code_word<bits>(bytes, count));
            const int32x4_t low = {0, -bits, -2 * bits, -3 * bits};  // shifts to the left
            const int32x4_t high = vaddq_s32(low, vdupq_n_s32(-4 * bits));
            const uint32x4_t mask = vdupq_n_u32((1u << bits) - 1u);
            return {{vcvtq_f32_u32(vandq_u32(vshlq_u32(word, low), mask)),
                     vcvtq_f32_u32(vandq_u32(vshlq_u32(word, high), mask))}};
        }
    }
};

}  // namespace

constinit const DequantizeKernel kDequantize[kFormats] = {
    panel::dequantize<Eight, 2>,
    panel::dequantize<Eight, 3>,
    panel::dequantize<Eight, 4>,
    panel::dequantize<Eight, 8>,
};

}  // namespace tqs::neon
