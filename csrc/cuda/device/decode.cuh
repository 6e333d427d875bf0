// From the words of a prepacked weight (cuda/layout.h) to the left operand of a tensor instruction.
//
// 16-bit operands are the integers u - z, exactly: |u - z| <= 255 has at most 8 significant bits, which bfloat16 has,
// too. Scales are applied to sums, in float32. (Scaled weights would round once more, 2^-9 each, to save one
// multiply-add per sum and group.) 8-bit operands are the codes u, unsigned; the sum of -z q is added apart.
#pragma once

#include <cstdint>

#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

// The words of one step (two steps for int8 operands) of a lane.
template <int bits>
struct Step {
    static constexpr int kWords = bits / 4;
    std::uint32_t words[kWords];  // 8 bits: of row r, of row r + 8
};

// What -z is to `decode`, for one row.
template <class Element, int bits>
struct Zero;

// 128 + u is the bit pattern 0x4300 | u, 1024 + u in float16 0x6400 | u, 2^23 + u in float32 0x4B000000 | u.
template <>
struct Zero<Bfloat16, 4> {
    std::uint32_t pair;
    __device__ explicit Zero(int zero) : pair((0xC300u | static_cast<unsigned>(zero)) * 0x10001u) {}
};
template <>
struct Zero<Bfloat16, 8> {
    float value;
    __device__ explicit Zero(int zero) : value(as_float(0x4B000000u | static_cast<unsigned>(zero))) {}
};
template <int bits>
struct Zero<Float16, bits> {
    std::uint32_t pair;
    __device__ explicit Zero(int zero) : pair((0xE400u | static_cast<unsigned>(zero)) * 0x10001u) {}
};

// 7 integer instructions and 4 multiply-adds for 8 weights.
__device__ inline void decode(const Step<4>& step, Zero<Bfloat16, 4> low, Zero<Bfloat16, 4> high,
                              std::uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const std::uint32_t above = and_or(step.words[0] >> 4 * i, 0x000F000Fu, 0x43004300u);  // 128 + u
        a[i] = fma_bfloat16x2(above, 0x3F803F80u, i % 2 ? high.pair : low.pair);
    }
}

// Through float32: 10 instructions for 4 weights. Differences have their 8 bits in the upper halves.
__device__ inline void decode(const Step<8>& step, Zero<Bfloat16, 8> low, Zero<Bfloat16, 8> high,
                              std::uint32_t (&a)[4]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float zero = row ? high.value : low.value;
        std::uint32_t values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const auto selector = static_cast<std::uint32_t>(0x7440 + i);
            values[i] = as_bits(as_float(permute(step.words[row], 0x4B000000u, selector)) - zero);
        }
        a[row] = permute(values[0], values[2], 0x7632u);
        a[row + 2] = permute(values[1], values[3], 0x7632u);
    }
}

__device__ inline void decode(const Step<4>& step, Zero<Float16, 4> low, Zero<Float16, 4> high, std::uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const std::uint32_t above = and_or(step.words[0] >> 4 * i, 0x000F000Fu, 0x64006400u);
        a[i] = add_float16x2(above, i % 2 ? high.pair : low.pair);
    }
}

__device__ inline void decode(const Step<8>& step, Zero<Float16, 8> low, Zero<Float16, 8> high, std::uint32_t (&a)[4]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const std::uint32_t zero = row ? high.pair : low.pair;
        a[row] = add_float16x2(permute(step.words[row], 0x64646464u, 0x4240u), zero);
        a[row + 2] = add_float16x2(permute(step.words[row], 0x64646464u, 0x4341u), zero);
    }
}

// Two steps make the operand of one m16n8k32.
__device__ inline void decode_bytes(const Step<4>& first, const Step<4>& second, std::uint32_t (&a)[4]) {
    a[0] = first.words[0] & 0x0F0F0F0Fu;
    a[1] = first.words[0] >> 4 & 0x0F0F0F0Fu;
    a[2] = second.words[0] & 0x0F0F0F0Fu;
    a[3] = second.words[0] >> 4 & 0x0F0F0F0Fu;
}
__device__ inline void decode_bytes(const Step<8>& first, const Step<8>& second, std::uint32_t (&a)[4]) {
    a[0] = first.words[0];
    a[1] = first.words[1];
    a[2] = second.words[0];
    a[3] = second.words[1];
}

}  // namespace tqs::cuda
