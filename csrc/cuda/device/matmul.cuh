// Batched products of two activations (MatmulTask): a block of threads takes one tile of one product of one lane.
#pragma once

#include "cuda/device/accumulate.cuh"
#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

struct MatmulArgument {
    Loops<3> batches;  // samples and leading axes, of a, b, out
    Lanes a, b, out;
    bool tangent;
    std::int64_t rows, columns, depth;
    std::int64_t a_row, a_k, b_k, b_column, out_row;
    std::int64_t row_blocks;
};

// Stored: as all operands are.
template <class Stored, int kEach>
__global__ void __launch_bounds__(kProductThreads) matmul(const MatmulArgument p) {
    begin_kernel();
    using T = Computed<Stored>;
    using Tile = Tiling<T, kEach>;
    const std::int64_t product = blockIdx.x / p.row_blocks, lane = product / p.batches.count;
    const auto batch = static_cast<std::uint32_t>(product - lane * p.batches.count);
    const std::int64_t first_row = (blockIdx.x - product * p.row_blocks) * Tile::kEdge;
    const std::int64_t first_column = std::int64_t{blockIdx.z * gridDim.y + blockIdx.y} * Tile::kEdge;
    if (first_column >= p.columns) return;  // the whole block

    T sums[kEach][kEach] = {};
    const auto add = [&](const char* a_data, const char* b_data) {
        if (!a_data || !b_data) return;
        const Stored* const a = reinterpret_cast<const Stored*>(a_data) + p.batches.offset(0, batch);
        const Stored* const b = reinterpret_cast<const Stored*>(b_data) + p.batches.offset(1, batch);
        accumulate<T, Tile>(
            sums, p.depth, p.b_column == 1,
            [&](int, int row, std::int64_t k) {
                return first_row + row < p.rows ? number(a[(first_row + row) * p.a_row + k * p.a_k]) : T(0);
            },
            [&](int, int column, std::int64_t k) {
                return first_column + column < p.columns ? number(b[k * p.b_k + (first_column + column) * p.b_column])
                                                         : T(0);
            });
    };
#pragma unroll 1
    for (int part = 0; part < (p.tangent && lane > 0 ? 2 : 1); ++part) {
        const std::int64_t of_b = part == 1 || !p.tangent ? lane : 0;
        add(p.a.lane(part == 0 ? lane : 0, p.tangent), p.b.lane(of_b, p.tangent));
    }

    const int side = static_cast<int>(threadIdx.x) % kProductSide, down = static_cast<int>(threadIdx.x) / kProductSide;
    Stored* const out = reinterpret_cast<Stored*>(p.out.lane(lane, false)) + p.batches.offset(2, batch);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const std::int64_t row = first_row + Tile::place(down, i);
        if (row >= p.rows) continue;
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
            const std::int64_t column = first_column + Tile::place(side, j);
            if (column < p.columns) out[row * p.out_row + column] = rounded<Stored>(sums[i][j]);
        }
    }
}

}  // namespace tqs::cuda
