// bfloat16 bit patterns on the device, as core/half.h has them on the host.
#pragma once

#include <cstdint>

namespace tqs::cuda {

__device__ inline float to_float(float value) {
    return value;
}
__device__ inline float to_float(std::uint16_t bits) {
    return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}

__device__ inline void store(float* out, float value) {
    *out = value;
}
// Nearest, ties to even; NaN stays NaN.
__device__ inline void store(std::uint16_t* out, float value) {
    const std::uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        *out = static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
    } else {
        *out = static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
    }
}

}  // namespace tqs::cuda
