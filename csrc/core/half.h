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

// Nearest, ties to even; NaN stays NaN. A sum with the power of two whose last place is that of the result (of
// subnormal numbers 2^-24) rounds.
static inline std::uint16_t float_to_float16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);
    if (bits >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 2^16 and more
    if (bits < 0x38800000u) {                                                    // below 2^-14
        float small;
        std::memcpy(&small, &bits, sizeof small);
        small += 0.5f;  // whose last place is 2^-24
        std::memcpy(&bits, &small, sizeof bits);
        return static_cast<std::uint16_t>(sign | (bits - 0x3F000000u));
    }
    const std::uint32_t kept = bits - 0x38000000u;  // the exponent with the bias of float16
    return static_cast<std::uint16_t>(sign | ((kept + 0xFFFu + (kept >> 13 & 1u)) >> 13));
}

// As elements of arrays.
struct Bfloat16 {
    std::uint16_t bits;

    explicit Bfloat16(double value) : bits(float_to_bfloat16(static_cast<float>(value))) {}
    explicit operator double() const { return static_cast<double>(bfloat16_to_float(bits)); }
};
struct Float16 {
    std::uint16_t bits;

    explicit Float16(double value) : bits(float_to_float16(static_cast<float>(value))) {}
    explicit operator double() const { return static_cast<double>(float16_to_float(bits)); }
};

}  // namespace tqs
