// Products on the portable form of the weight: any element, format, shape and alignment. Sums are float32; K is cut
// into parts of kSimplePart inputs, and with w = scale (u - z), which is exact,
//
//   part p   sum = fma(x[m, k], w[n, k], sum) for the inputs k of the part, in order, from 0
//   y[m, n]  0 + part 0 + part 1 + ... + bias
//
// so that |y - exact| <= (min(K, kSimplePart) + parts + 1) u (sum |x||w| + |bias|), u = 2^-24. An element depends on
// its row of x and its row of W alone: the kernel of few rows here and that of many (simple_tiles.cuh) have the same
// bits.
//
//   grid x: kSimpleOutputs outputs     grid y: `rows` rows of x (strided when M is huge)
//   block:  up to kSimpleWarps warps, each with every warps-th pair of parts; lanes from 16 on have the second one
//
// A warp brings 32 inputs of both parts to shared memory, its lanes side by side along k: codes as floats, by output,
// and x, by input. Then every lane multiplies the codes of its own output.
#pragma once

#include <cstdint>
#include <cstring>

#include "backend/kernel_table.h"
#include "cuda/device/codes.cuh"
#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

inline constexpr int kSimplePart = 128;  // inputs: a multiple of every group size
inline constexpr int kSimpleWarps = 8;
inline constexpr int kSimpleRows = 8;
inline constexpr int kSimpleOutputs = 16;
inline constexpr int kSimpleParts = 32 / kSimpleOutputs;  // of a warp
inline constexpr int kSimplePitch = 33;                   // of an output's codes

// Floats of a warp in shared memory: codes [part, output, input], x [part, input, row], as a multiple of 128 bytes.
static constexpr int simple_warp_floats(int rows) {
    return (kSimpleParts * (kSimpleOutputs * kSimplePitch + 32 * rows) + 31) / 32 * 32;
}

struct SimpleTask {
    QgemmTask task;
    std::int64_t groups, code_bytes;  // of a row of the weight: scales, bytes of codes
    int group_shift;                  // input k has scale k >> group_shift
    std::int64_t parts;
    int warps;  // of a block of `simple`
};

// Inputs k ... k + 31 of the outputs and the rows that begin at these. Of x zeros where there are none; of codes, which
// then do not matter, any.
template <class Element, int bits, int rows>
__device__ inline void bring_inputs(const SimpleTask& a, std::int64_t first_output, std::int64_t first_row,
                                    std::int64_t k, float* codes, float* inputs) {
    const PackedView& w = a.task.weight;
    const int lane = static_cast<int>(threadIdx.x) % 32, first = lane % 8 * 4;
    const int left = w.columns - k < 32 ? static_cast<int>(w.columns - k) : 32;
#pragma unroll
    for (int i = 0; i < kSimpleOutputs / 4; ++i) {
        const int own = 4 * i + lane / 8;
        const std::int64_t output = first_output + own < w.rows ? first_output + own : w.rows - 1;
        const int window = four_codes<bits>(w.codes + output * a.code_bytes + k / 8 * bits, first, left - first);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            codes[own * kSimplePitch + first + j] = static_cast<float>(window >> j * bits & ((1 << bits) - 1));
        }
    }
    const auto* x = static_cast<const Element*>(a.task.x) + first_row * a.task.x_stride + k + lane;
    float numbers[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        numbers[r] = lane < left && first_row + r < a.task.rows ? to_float(*x) : 0.0f;
        x += a.task.x_stride;
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) inputs[lane * rows + r] = numbers[r];
}

// The arrays with their shapes are in backend/kernel_table.h and quant/format.h. rows: 1 or kSimpleRows.
template <class Element, int bits, int rows>
__global__ void __launch_bounds__(32 * kSimpleWarps, 2) simple(const SimpleTask a) {
    constexpr int kFloats = simple_warp_floats(rows), kCodes = kSimpleOutputs * kSimplePitch, kInputs = 32 * rows;
    const PackedView& w = a.task.weight;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int own = lane % kSimpleOutputs, own_part = lane / kSimpleOutputs;
    const std::int64_t first_output = static_cast<std::int64_t>(blockIdx.x) * kSimpleOutputs;
    const std::int64_t output = first_output + own, groups = output * a.groups;
    const bool valid = output < w.rows;
    float* const shared = reinterpret_cast<float*>(shared_memory());
    float *const codes = shared + warp * kFloats, *const inputs = codes + kSimpleParts * kCodes;
    const float* const own_codes = codes + own_part * kCodes + own * kSimplePitch;
    const float* const own_inputs = inputs + own_part * kInputs;

    for (std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y) * rows; first_row < a.task.rows;
         first_row += static_cast<std::int64_t>(gridDim.y) * rows) {
        float totals[rows] = {};  // of rows warp, warp + warps, ...: those of the first lanes
        for (std::int64_t part = 0; part < a.parts; part += a.warps * kSimpleParts) {
            const std::int64_t begin = (part + warp * kSimpleParts) * kSimplePart;
            float sums[rows] = {};
            for (int step = 0; step < kSimplePart && begin + step < w.columns; step += 32) {
                warp_barrier();  // what was there is multiplied
#pragma unroll 1
                for (int p = 0; p < kSimpleParts; ++p) {
                    bring_inputs<Element, bits, rows>(a, first_output, first_row, begin + p * kSimplePart + step,
                                                      codes + p * kCodes, inputs + p * kInputs);
                }
                const std::int64_t k = begin + own_part * kSimplePart + step, group = groups + (k >> a.group_shift);
                const bool some = valid && k < w.columns;
                const float scale = some ? bfloat16_to_float(w.scales[group]) : 0.0f;
                const float zero = static_cast<float>(some && w.zeros ? w.zeros[group] : 1 << (bits - 1));
                warp_barrier();
#pragma unroll 8
                for (int i = 0; i < 32; ++i) {
                    const float weight = scale * (own_codes[i] - zero);
                    float x[rows];
                    std::memcpy(x, own_inputs + i * rows, sizeof x);
#pragma unroll
                    for (int r = 0; r < rows; ++r) sums[r] = fused(x[r], weight, sums[r]);
                }
            }
            warp_barrier();
#pragma unroll
            for (int r = 0; r < rows; ++r) codes[r * 32 + lane] = sums[r];  // [row, part, output]
            block_barrier();
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                const int row = warp + i * a.warps;
                if (row >= rows || lane >= kSimpleOutputs) continue;
                for (int other = 0; other < a.warps * kSimpleParts; ++other) {  // zero where there is no part
                    totals[i] +=
                        shared[other / kSimpleParts * kFloats + row * 32 + other % kSimpleParts * kSimpleOutputs + own];
                }
            }
            block_barrier();
        }
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            const int row = warp + i * a.warps;
            if (row >= rows || lane >= kSimpleOutputs || !valid || first_row + row >= a.task.rows) continue;
            store(static_cast<Element*>(a.task.y) + (first_row + row) * a.task.y_stride + output,
                  a.task.bias ? totals[i] + a.task.bias[output] : totals[i]);
        }
    }
}

}  // namespace tqs::cuda
