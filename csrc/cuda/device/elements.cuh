// Types of activations on the device, and conversions; bfloat16 as core/half.h has it on the host.
#pragma once

#include <cstdint>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

struct Bfloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

__device__ inline float bfloat16_to_float(std::uint32_t bits) {
    return as_float(bits << 16);
}

__device__ inline float to_float(float value) {
    return value;
}
__device__ inline float to_float(Bfloat16 value) {
    return bfloat16_to_float(value.bits);
}
__device__ inline float to_float(Float16 value) {
    return float16_to_float(value.bits);
}

__device__ inline void store(float* out, float value) {
    *out = value;
}
// Nearest, ties to even; NaN stays NaN.
__device__ inline void store(Bfloat16* out, float value) {
    out->bits = static_cast<std::uint16_t>(bfloat16_pair(value, 0.0f));
}
__device__ inline void store(Float16* out, float value) {
    out->bits = float_to_float16(value);
}

// c += a b, as mma_bfloat16.
__device__ inline void multiply(Bfloat16, float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    mma_bfloat16(c, a, b);
}
__device__ inline void multiply(Float16, float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    mma_float16(c, a, b);
}

__device__ inline std::uint32_t pair_of(Bfloat16, float low, float high) {
    return bfloat16_pair(low, high);
}
__device__ inline std::uint32_t pair_of(Float16, float low, float high) {
    return float16_pair(low, high);
}

}  // namespace tqs::cuda
