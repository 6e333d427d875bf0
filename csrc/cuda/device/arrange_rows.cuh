// Rows of 16-bit activations in the order in which warpgroups read them (cuda/layout.h).
#pragma once

#include <cstdint>

#include "cuda/device/instructions.cuh"
#include "cuda/layout.h"

namespace tqs::cuda {

constexpr int kArrangeThreads = 256;

struct ArrangeRowsTask {
    const unsigned char* x;  // [rows, columns] of 16 bits, 16-byte aligned, columns a multiple of 8
    std::int64_t x_bytes;    // between rows
    std::int64_t columns, pieces, rows, padded_rows;
    unsigned char* out;
};

// One thread per row and piece of 32 inputs: four vectors, transposed as 4 x 4 words.
static __global__ void __launch_bounds__(kArrangeThreads) arrange_rows(const ArrangeRowsTask task) {
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kArrangeThreads + threadIdx.x;
    const std::int64_t row = index / task.pieces, piece = index % task.pieces, h = piece % 2;
    if (row >= task.rows) return;
    Vector from[4] = {};
    for (int t = 0; t < 4; ++t) {
        const std::int64_t k = 32 * piece + 8 * t;
        if (k < task.columns) from[t] = load_streamed(task.x + row * task.x_bytes + 2 * k);
    }
    unsigned char* atom_row = task.out + (piece / 2 * task.padded_rows + row) * kSlabBytes;
    for (int i = 0; i < 4; ++i) {  // i = 2 s + p
        const Vector to = {{from[0].words[i], from[1].words[i], from[2].words[i], from[3].words[i]}};
        *reinterpret_cast<Vector*>(atom_row + 16 * ((4 * h + i) ^ row % 8)) = to;
    }
}

}  // namespace tqs::cuda
