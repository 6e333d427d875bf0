// Rows of activations rounded to int8 (Activation::int8 in backend/kernel_table.h), in the order of cuda/layout.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend/kernel_table.h"
#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"
#include "cuda/layout.h"

namespace tqs::cuda {

constexpr int kQuantizeThreads = 256;
constexpr std::size_t kQuantizeShared = 128;

struct QuantizeRowsTask {
    const void* x;  // [rows, columns]
    std::int64_t x_stride;
    std::int64_t columns, padded_columns, padded_rows;
    int group_size;  // 0: one span is the whole row (columns <= kSpan)
    bool arranged;   // for warpgroups
    unsigned char* codes;
    float* scales;       // [rows]
    std::int32_t* sums;  // [spans, padded_rows]
};

// Where the codes of inputs k ... k + 3 of a row go, k a multiple of 4.
__device__ inline std::int64_t place_of_codes(const QuantizeRowsTask& task, std::int64_t row, std::int64_t k) {
    const std::int64_t h = k / 32 % 2, t = k / 8 % 4, s = k / 4 % 2;
    if (!task.arranged) {
        return row * task.padded_columns + k / kBlockInputs * kBlockInputs + 16 * t + 8 * h + 4 * s;
    }
    const std::int64_t vector = 2 * (k % kSlabBytes / 32) + s;
    return (k / kSlabBytes * task.padded_rows + row) * kSlabBytes + 16 * (vector ^ row % 8) + 4 * t;
}

// One block per row. Every element is read twice, the second time mostly from L1 or L2.
template <class Element>
__global__ void __launch_bounds__(kQuantizeThreads) quantize_rows(const QuantizeRowsTask task) {
    constexpr int kWarps = kQuantizeThreads / 32;
    auto* shared = reinterpret_cast<float*>(shared_memory());  // [kWarps]; later int [kWarps]
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const std::int64_t row = blockIdx.x;
    const auto* x = static_cast<const Element*>(task.x) + row * task.x_stride;

    float most = 0.0f;  // infinity where the row holds NaN
    for (std::int64_t k = thread; k < task.columns; k += kQuantizeThreads) {
        const float size = fabsf(to_float(x[k]));
        most = size <= 3.402823466e38f ? fmaxf(most, size) : as_float(0x7F800000u);
    }
    for (int step = 16; step > 0; step /= 2) most = fmaxf(most, shuffle_xor(most, step));
    if (lane == 0) shared[warp] = most;
    block_barrier();
    for (int i = 0; i < kWarps; ++i) most = fmaxf(most, shared[i]);
    block_barrier();

    const bool finite = most <= 3.402823466e38f, quiet = most < kQuietRow;
    const float ratio = finite && !quiet ? quotient(127.0f, most) : 0.0f;
    if (thread == 0) {
        task.scales[row] = !finite ? as_float(0x7FC00000u) : quiet ? 0.0f : quotient(most, 127.0f);
    }

    // A warp takes a unit of 128 inputs at a time, a lane 4 neighbours of it, which stay neighbours.
    auto* counts = reinterpret_cast<int*>(shared);
    int whole = 0;
    for (std::int64_t unit = warp; unit * kUnitInputs < task.padded_columns; unit += kWarps) {
        const std::int64_t k = unit * kUnitInputs + 4 * lane;
        std::uint32_t word = 0;
        int sum = 0;
        for (int j = 0; j < 4; ++j) {
            const float value = finite && k + j < task.columns ? to_float(x[k + j]) : 0.0f;
            const int code = round_to_int(product(value, ratio));
            sum += code;
            const int byte = j / 2 + 2 * (j % 2);  // 0 2 1 3
            word |= (static_cast<std::uint32_t>(code) & 0xFFu) << (8 * byte);
        }
        *reinterpret_cast<std::uint32_t*>(task.codes + place_of_codes(task, row, k)) = word;
        whole += sum;
        if (task.group_size != 0) {
            for (int step = 1; step < task.group_size / 4; step *= 2) sum += shuffle_xor(sum, step);
            if (4 * lane % task.group_size == 0) task.sums[k / task.group_size * task.padded_rows + row] = sum;
        }
    }
    if (task.group_size != 0) return;
    for (int step = 16; step > 0; step /= 2) whole += shuffle_xor(whole, step);
    if (lane == 0) counts[warp] = whole;
    block_barrier();
    if (thread == 0) {
        for (int i = 1; i < kWarps; ++i) whole += counts[i];
        task.sums[row] = whole;
    }
}

}  // namespace tqs::cuda
