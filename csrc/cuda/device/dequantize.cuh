// A packed weight as the float32 matrix that it stands for: scale times (code - zero), one rounding, the bits of the
// processor.
//
//   grid x: pieces of rows, kDequantizePiece columns each; a thread takes every kDequantizeThreads-th column of its
//   piece, so that a warp writes 128 bytes in a row
#pragma once

#include <cstdint>

#include "cuda/device/codes.cuh"
#include "cuda/device/elements.cuh"
#include "quant/format.h"

namespace tqs::cuda {

inline constexpr int kDequantizeThreads = 128;
inline constexpr int kDequantizePiece = 8 * kDequantizeThreads;

struct DequantizeTask {
    PackedView weight;
    std::int64_t width, groups, code_bytes, pieces;  // inputs per scale; of a row: scales, bytes of codes, pieces
    float* out;                                      // [rows, columns]
};

template <int bits>
__global__ void __launch_bounds__(kDequantizeThreads) dequantize(const DequantizeTask task) {
    const PackedView& weight = task.weight;
    const std::int64_t row = blockIdx.x / task.pieces, first = blockIdx.x % task.pieces * kDequantizePiece;
    const std::uint8_t* codes = weight.codes + row * task.code_bytes;
#pragma unroll
    for (int i = 0; i < kDequantizePiece / kDequantizeThreads; ++i) {
        const std::int64_t k = first + i * kDequantizeThreads + threadIdx.x;
        if (k >= weight.columns) return;
        const std::int64_t group = row * task.groups + k / task.width;
        const int zero = weight.zeros ? weight.zeros[group] : 1 << (bits - 1);
        const float scale = bfloat16_to_float(weight.scales[group]);
        task.out[row * weight.columns + k] = scale * static_cast<float>(read_code<bits>(codes, k) - zero);
    }
}

}  // namespace tqs::cuda
