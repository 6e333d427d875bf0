// Numbers of 16 bits. bfloat16 is the upper half of a float32 bit pattern. (No kernel of the processor takes float16,
// which is widened at the Python edge; the host meets it as it lies on a device.)
#pragma once

#include <cstdint>
#include <cstring>

namespace tqs {

static inline float bfloat16_to_float(std::uint16_t bits) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

// Round to nearest, ties to even: adding 0x7FFF plus the lowest kept bit carries exactly when the dropped half is above
// one half, or equal to it with an odd kept part. Overflow carries into infinity. NaN stays NaN (quiet bit set: the
// payload that survives the cut could be zero, which would read as infinity).
static inline std::uint16_t float_to_bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
    return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// Bits beyond the mantissa are moved to their place and the exponent, whose bias is 112 less, put right by a product;
// that also turns subnormal numbers into normal ones. Infinities and NaN have the exponent 31.
static inline float float16_to_float(std::uint16_t bits) {
    const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7FFFu) << 13;
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    std::uint32_t wide = magnitude | 0x7F800000u;
    float value;
    if (magnitude < 0x0F800000u) {
        std::memcpy(&value, &magnitude, sizeof value);
        value *= 0x1p112f;
        std::memcpy(&wide, &value, sizeof wide);
    }
    wide |= sign;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

}  // namespace tqs
