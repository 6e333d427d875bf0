// The products of simple.cuh, of float32 and many rows, by the inner loop of layers (accumulate.cuh): a weight is
// decoded on its way to shared memory, once per tile of rows, and nothing else differs from a product with a float32
// matrix.
//
//   grid x: tiles, those of the same outputs side by side
//
// A block walks through the parts of K and adds each to what it has left in y, which needs no registers and a twelfth
// of the instructions. With its operands that is 70 KB per part of some 6600 cycles: 10 bytes per cycle and
// multiprocessor, of which L2 delivers 28 (plan.cpp).
#pragma once

#include "cuda/device/accumulate.cuh"
#include "cuda/device/lanes.cuh"
#include "cuda/device/simple.cuh"

namespace tqs::cuda {

using SimpleTile = Tiling<float, 4>;

template <int bits>
__global__ void __launch_bounds__(kProductThreads, 3) simple_tiles(const SimpleTask a) {
    using Tile = SimpleTile;
    using Values = Pack<float>;
    constexpr int kVector = Values::kEach;
    static_assert(Tile::kLoads == kVector);  // of each operand one vector per thread
    const QgemmTask& task = a.task;
    const PackedView& w = task.weight;
    const std::int64_t row_tiles = (task.rows + Tile::kEdge - 1) / Tile::kEdge;
    const std::int64_t first_row = blockIdx.x % row_tiles * Tile::kEdge;
    const std::int64_t first_output = blockIdx.x / row_tiles * Tile::kEdge;
    // The row of x and of W that this thread loads.
    const int place = loaded<Tile, kVector>(0, false).row;
    const std::int64_t own_row = first_row + place, own_output = first_output + place;
    const bool has_row = own_row < task.rows, has_output = own_output < w.rows;
    const float* x = static_cast<const float*>(task.x) + own_row * task.x_stride;
    const std::uint8_t* codes = w.codes + own_output * a.code_bytes;
    const std::int64_t own_groups = own_output * a.groups;

    for (std::int64_t begin = 0; begin < w.columns; begin += kSimplePart) {
        const bool last = begin + kSimplePart >= w.columns;
        const int depth = last ? static_cast<int>(w.columns - begin) : kSimplePart;
        const auto input = [&](int, int, std::int64_t at) {
            const int k = static_cast<int>(at), left = has_row ? depth - k : 0;
            Values values;
#pragma unroll
            for (int j = 0; j < kVector; ++j) values.values[j] = j < left ? x[k + j] : 0.0f;
            return values;
        };
        const auto weight = [&](int, int, std::int64_t at) {
            const int k = static_cast<int>(at), left = has_output ? depth - k : 0;
            Values values{};
            if (left <= 0) return values;
            const std::int64_t group = own_groups + ((begin + k) >> a.group_shift);
            const float scale = bfloat16_to_float(w.scales[group]);
            const int zero = w.zeros ? w.zeros[group] : 1 << (bits - 1);
            const int window = four_codes<bits>(codes, k, left);
#pragma unroll
            for (int j = 0; j < kVector; ++j) {
                values.values[j] = scale * static_cast<float>((window >> j * bits & ((1 << bits) - 1)) - zero);
            }
            return values;
        };
        float sums[Tile::kEach][Tile::kEach] = {};
        accumulate<float, Tile>(sums, depth, false, input, weight);
        x += kSimplePart;
        codes += kSimplePart / 8 * bits;

        const int thread = static_cast<int>(threadIdx.x), side = thread % kProductSide, down = thread / kProductSide;
#pragma unroll
        for (int i = 0; i < Tile::kEach; ++i) {
            const std::int64_t row = first_row + Tile::place(down, i);
            if (row >= task.rows) continue;
            float* const y = static_cast<float*>(task.y) + row * task.y_stride;
#pragma unroll
            for (int j = 0; j < Tile::kEach; ++j) {
                const std::int64_t output = first_output + Tile::place(side, j);
                if (output >= w.rows) continue;
                const float total = (begin == 0 ? 0.0f : y[output]) + sums[i][j];
                y[output] = last && task.bias ? total + task.bias[output] : total;
            }
        }
    }
}

}  // namespace tqs::cuda
