// The arguments of a product, and what kernels over 16-bit and over int8 activations differ in.
//
// Of one unit of 128 inputs and one tile of 16 outputs, a lane holds 8 steps of codes (cuda/layout.h), from which
// kOperands left operands of a tensor instruction are made; of one row of x, as many right operands, 2 kOperands words.
// They lie in kOperands / 2 vectors, vector v at byte 64 v + 16 t of the unit: operand q is half q mod 2 of vector q
// / 2.
#pragma once

#include <cstdint>

#include "cuda/device/decode.cuh"
#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"
#include "cuda/layout.h"

namespace tqs::cuda {

// Shapes: cuda/layout.h.
struct Product {
    const unsigned char* x;  // [rows], x_bytes apart, 16-byte aligned: 16-bit elements or int8 codes
    std::int64_t x_bytes;
    const float* row_scales;       // int8 only, [rows]
    const std::int32_t* row_sums;  // int8 only, [spans, padded_rows]
    std::int64_t padded_rows;
    int rows;     // M
    int inputs;   // K, a multiple of 8; int8: padded to units
    int outputs;  // N
    const unsigned char* codes;
    const std::uint32_t* scales;
    const std::uint16_t* zeros;  // null: `zero` everywhere
    int zero;
    int tiles, units, groups;
    const float* bias;  // [N] or null
    void* y;            // [rows, N] of the element that `dtype` (core/dtype.h) names
    std::int64_t y_stride;
    int dtype;
    int splits;          // parts of K, gridDim.z
    void* partials;      // splits > 1: see split.cuh
    unsigned* counters;  // splits > 1: one per block of outputs, zero before and after
};

__device__ inline void write(const Product& p, int row, int output, float value) {
    const std::int64_t index = row * p.y_stride + output;
    if (p.dtype == 0) {
        static_cast<float*>(p.y)[index] = value;
    } else if (p.dtype == 1) {
        store(static_cast<Bfloat16*>(p.y) + index, value);
    } else {
        store(static_cast<Float16*>(p.y) + index, value);
    }
}

// The zero point of rows r and r + 8 out of a pair.
__device__ inline int zero_of(std::uint32_t pair, int high) {
    return static_cast<int>(pair >> 8 * high & 0xFFu);
}
__device__ inline float scale_of(std::uint32_t pair, int high) {
    return bfloat16_to_float(high ? pair >> 16 : pair & 0xFFFFu);
}

template <int bits>
__device__ inline Step<bits> step_of(const std::uint32_t* words, int step) {
    Step<bits> result;
#pragma unroll
    for (int i = 0; i < Step<bits>::kWords; ++i) result.words[i] = words[step * Step<bits>::kWords + i];
    return result;
}

// 16-bit activations: y = sum over groups of s sum_k x[k] (u[k] - z), in float32.
template <class Element, int bits_>
struct Exact {
    static constexpr int bits = bits_;
    static constexpr bool kInt8 = false;
    static constexpr int kInputBytes = 2;
    static constexpr int kOperands = 8;
    using Sum = float;

    __device__ static void decode_operand(const std::uint32_t* words, int operand, std::uint32_t zeros,
                                          std::uint32_t (&a)[4]) {
        decode(step_of<bits>(words, operand), Zero<Element, bits>(zero_of(zeros, 0)),
               Zero<Element, bits>(zero_of(zeros, 1)), a);
    }
    __device__ static void multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
        cuda::multiply(Element{}, c, a, b);
    }
    // Where the sum of a group starts; `sums` are the sums of x of columns 2 t and 2 t + 1.
    __device__ static void start(float (&c)[4], std::uint32_t, const int*) { c[0] = c[1] = c[2] = c[3] = 0.0f; }
};

// int8 activations: sums are integers, and start at -z times the sum of the row's codes.
template <int bits_>
struct Int8 {
    static constexpr int bits = bits_;
    static constexpr bool kInt8 = true;
    static constexpr int kInputBytes = 1;
    static constexpr int kOperands = 4;
    using Sum = int;

    __device__ static void decode_operand(const std::uint32_t* words, int operand, std::uint32_t,
                                          std::uint32_t (&a)[4]) {
        decode_bytes(step_of<bits>(words, 2 * operand), step_of<bits>(words, 2 * operand + 1), a);
    }
    __device__ static void multiply(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
        mma_int8(c, a, b);
    }
    __device__ static void start(int (&c)[4], std::uint32_t zeros, const int* sums) {
#pragma unroll
        for (int i = 0; i < 4; ++i) c[i] = -zero_of(zeros, i / 2) * sums[i % 2];
    }
};

}  // namespace tqs::cuda
