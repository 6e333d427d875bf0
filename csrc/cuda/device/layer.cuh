// Products of activations with weights (backend/device.h, LayerTask), of all lanes in one launch: blocks are handed out
// to *runs* of lanes that multiply by the same weights. Windows of convolutions are read where they lie.
#pragma once

#include "backend/device.h"
#include "cuda/device/accumulate.cuh"
#include "cuda/device/lanes.cuh"
#include "cuda/device/layer_run.cuh"

namespace tqs::cuda {

struct LayerArgument {
    const LayerRun* runs;
    int run_count;
    bool tangent;
    Lanes x, bias, out;
    bool biased;
    std::int64_t x_sample, out_sample, samples, rows;  // of a lane and sample
    std::int64_t x_batch, channels, x_channel, outputs, k, groups;
    WindowAxis height, width;
    std::int64_t column_blocks;  // of a group
};

// Where a row of the product begins.
template <class T>
struct LayerRow {
    const T* x;  // null: zeros
    std::int64_t top, left;
};

// Row m of a run that begins at `lane`; of x, lane 0 takes its place with `primal`.
template <class T>
__device__ inline LayerRow<T> layer_row(const LayerArgument& a, const LayerRun& run, std::int64_t m, bool primal,
                                        std::int64_t first_channel) {
    const std::int64_t each = a.samples * a.rows, lane = m / each;
    if (lane >= run.lanes) return {nullptr, 0, 0};
    const char* data = a.x.lane(primal ? 0 : run.lane + lane, a.tangent);
    if (!data) return {nullptr, 0, 0};
    m -= lane * each;
    const std::int64_t sample = m / a.rows;
    std::int64_t place = m - sample * a.rows;
    const std::int64_t w = place % a.width.outputs;
    place /= a.width.outputs;
    const std::int64_t h = place % a.height.outputs, image = place / a.height.outputs;
    const T* x = reinterpret_cast<const T*>(data) + sample * a.x_sample + image * a.x_batch;
    return {x + first_channel * a.x_channel, h * a.height.stride - a.height.padding,
            w * a.width.stride - a.width.padding};
}

template <class Stored>
__device__ inline Computed<Stored> layer_input(const LayerArgument& a, const LayerRow<Stored>& row, std::int64_t k) {
    using T = Computed<Stored>;
    if (!row.x) return T(0);
    std::int64_t h = row.top, w = row.left;
    if (const std::int64_t taps = a.height.taps * a.width.taps; taps > 1) {
        const std::int64_t channel = k / taps, tap = k - channel * taps, i = tap / a.width.taps;
        h += i * a.height.dilation;
        w += (tap - i * a.width.taps) * a.width.dilation;
        k = channel;
    }
    if (h < 0 || h >= a.height.length || w < 0 || w >= a.width.length) return T(0);
    return number(row.x[k * a.x_channel + h * a.height.x_stride + w * a.width.x_stride]);
}

// Blocks that are to fit a multiprocessor at once; without being told the compiler takes some registers too many.
template <class Stored, int kEach, bool linear>
inline constexpr int kLayerBlocks = kEach == 8   ? (linear ? 2 : 1)
                                    : kEach == 4 ? (linear && sizeof(Stored) == 4 ? 3 : 2)
                                                 : 4;

// Stored: as all operands are. linear: rows of x and of weights are adjacent and begin at multiples of 16 bytes.
template <class Stored, int kEach, bool linear>
__global__ void __launch_bounds__(kProductThreads, (kLayerBlocks<Stored, kEach, linear>)) layer(const LayerArgument a) {
    begin_kernel();
    using T = Computed<Stored>;
    using Tile = Tiling<T, kEach>;
    const std::int64_t across = blockIdx.z * gridDim.y + blockIdx.y, group = across / a.column_blocks;
    if (group >= a.groups) return;  // the whole block
    const LayerRun& run = run_of_block(a.runs, a.run_count, blockIdx.x);
    const std::int64_t first_row = (blockIdx.x - run.block) * Tile::kEdge;
    const std::int64_t first_column = (across - group * a.column_blocks) * Tile::kEdge;

    T sums[kEach][kEach] = {};
    const auto add = [&](const void* weight, bool primal) {
        const Stored* const w = static_cast<const Stored*>(weight) + group * a.outputs * a.k;
        if constexpr (linear) {
            using Values = std::conditional_t<Tile::kLoads % Pack<T>::kEach == 0, Pack<T>, T>;
            constexpr int kVector = static_cast<int>(sizeof(Values) / sizeof(T)), kLoads = Tile::kLoads / kVector;
            const T *rows[kLoads], *columns[kLoads];  // null: zeros
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                const int place = loaded<Tile, kVector>(i, false).row;
                const LayerRow<T> row = layer_row<T>(a, run, first_row + place, primal, group * a.channels);
                rows[i] = row.x ? row.x + row.top * a.height.x_stride + row.left * a.width.x_stride : nullptr;
                columns[i] = first_column + place < a.outputs ? w + (first_column + place) * a.k : nullptr;
            }
            const auto at = [](const T* row, std::int64_t k) {
                return row ? *reinterpret_cast<const Values*>(row + k) : Values{};
            };
            accumulate<T, Tile>(
                sums, a.k, false, [&](int i, int, std::int64_t k) { return at(rows[i], k); },
                [&](int i, int, std::int64_t k) { return at(columns[i], k); });
        } else {
            LayerRow<Stored> rows[Tile::kLoads];
#pragma unroll
            for (int i = 0; i < Tile::kLoads; ++i) {
                rows[i] = layer_row<Stored>(a, run, first_row + loaded<Tile>(i, false).row, primal, group * a.channels);
            }
            accumulate<T, Tile>(
                sums, a.k, false, [&](int i, int, std::int64_t k) { return layer_input(a, rows[i], k); },
                [&](int, int column, std::int64_t k) {
                    return first_column + column < a.outputs ? number(w[(first_column + column) * a.k + k]) : T(0);
                });
        }
    };
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
        if (const void* weight = part == 0 ? run.weight : run.tangent) add(weight, part == 1);
    }

    const int side = static_cast<int>(threadIdx.x) % kProductSide, down = static_cast<int>(threadIdx.x) / kProductSide;
    const std::int64_t each = a.samples * a.rows, columns = a.outputs * a.groups;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const std::int64_t m = first_row + Tile::place(down, i), lane = m / each;
        if (lane >= run.lanes) continue;
        const std::int64_t sample = (m - lane * each) / a.rows, row = m - lane * each - sample * a.rows;
        Stored* const y =
            reinterpret_cast<Stored*>(a.out.lane(run.lane + lane, false)) + sample * a.out_sample + row * columns;
        const Stored* const bias =
            a.biased ? reinterpret_cast<const Stored*>(a.bias.lane(run.lane + lane, a.tangent)) : nullptr;
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
            const std::int64_t column = first_column + Tile::place(side, j);
            if (column >= a.outputs) continue;
            const std::int64_t n = group * a.outputs + column;
            y[n] = rounded<Stored>(bias ? sums[i][j] + number(bias[n]) : sums[i][j]);
        }
    }
}

}  // namespace tqs::cuda
