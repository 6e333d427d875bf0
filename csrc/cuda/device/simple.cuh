// The product that takes everything: any element, format, shape and alignment, on the portable form of the weight.
//
//   grid x: output columns n, one per warp, kSimpleWarps per block   lanes stride over the k of a group,
//   grid y: blocks of kSimpleRows rows of x (strided when M is huge) then a butterfly adds the 32 partial sums
//
// Every weight is decoded by one lane and used for kSimpleRows rows. Sums are float32; the order over k is fixed, so
// the result is the same from run to run, and |y - exact| <= (K / 32 + 9) u (sum |x||w| + |bias|), u = 2^-24.
#pragma once

#include <cstdint>

#include "backend/kernel_table.h"
#include "cuda/device/codes.cuh"
#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

constexpr int kSimpleWarps = 4;
constexpr int kSimpleThreads = 32 * kSimpleWarps;
constexpr int kSimpleRows = 8;

struct SimpleTask {
    QgemmTask task;
    std::int64_t width, groups, code_bytes;  // of the weight: inputs per scale, scales and bytes of codes per row
};

// The arrays with their shapes are in backend/kernel_table.h and quant/format.h.
template <class Element, int bits>
__global__ void __launch_bounds__(kSimpleThreads) simple(const SimpleTask arguments) {
    const QgemmTask& task = arguments.task;
    const auto* x = static_cast<const Element*>(task.x);
    auto* y = static_cast<Element*>(task.y);
    const std::int64_t columns = task.weight.columns, groups = arguments.groups, width = arguments.width;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kSimpleWarps + threadIdx.x / 32;
    if (n >= task.weight.rows) return;  // whole warps leave, so the shuffles below stay complete
    const std::uint8_t* row_codes = task.weight.codes + n * arguments.code_bytes;

    for (std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kSimpleRows; first < task.rows;
         first += static_cast<std::int64_t>(gridDim.y) * kSimpleRows) {
        const int count = static_cast<int>(task.rows - first < kSimpleRows ? task.rows - first : kSimpleRows);
        float sums[kSimpleRows] = {};
        for (std::int64_t group = 0; group < groups; ++group) {
            const float scale = bfloat16_to_float(task.weight.scales[n * groups + group]);
            const int zero = task.weight.zeros ? task.weight.zeros[n * groups + group] : 1 << (bits - 1);
            const std::int64_t end = (group + 1) * width < columns ? (group + 1) * width : columns;
            for (std::int64_t k = group * width + lane; k < end; k += 32) {
                const float weight = scale * static_cast<float>(read_code<bits>(row_codes, k) - zero);
#pragma unroll
                for (int r = 0; r < kSimpleRows; ++r) {
                    if (r < count) sums[r] += to_float(x[(first + r) * task.x_stride + k]) * weight;
                }
            }
        }
#pragma unroll
        for (int r = 0; r < kSimpleRows; ++r) {
            for (int step = 16; step > 0; step /= 2) sums[r] += shuffle_xor(sums[r], step);
            if (r < count && lane == r) {
                store(y + (first + r) * task.y_stride + n, task.bias ? sums[r] + task.bias[n] : sums[r]);
            }
        }
    }
}

}  // namespace tqs::cuda
