// bfloat16: the upper half of a float32 bit pattern. (float16 is widened at the Python edge and never reaches here.)
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

}  // namespace tqs
