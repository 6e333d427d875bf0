// From the totals of a warp to y.
#pragma once

#include "cuda/device/operand.cuh"

namespace tqs::cuda {

// totals [fragments, 4]: one tile of 16 outputs and 8 fragments rows of x from `first_row` on, as the tensor
// instructions leave them. `whole`: integers, over all of K.
template <class Operand, bool whole, class Total, int fragments>
__device__ inline void write_results(const Product& p, int tile, int first_row, const Total (&totals)[fragments][4]) {
    const int r = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int high = 0; high < 2; ++high) {
        const int output = tile * kTileRows + r + 8 * high;
        if (output >= p.outputs) continue;
        const float bias = p.bias ? p.bias[output] : 0.0f;
        const int pair = tile * 8 + r;
        const int zero = whole && p.zeros ? zero_of(p.zeros[pair], high) : p.zero;
        const float scale = whole ? scale_of(p.scales[pair], high) : 0.0f;
#pragma unroll
        for (int i = 0; i < 2 * fragments; ++i) {
            const int row = first_row + 2 * t + 8 * (i / 2) + i % 2;
            if (row >= p.rows) continue;
            const Total total = totals[i / 2][2 * high + i % 2];
            if constexpr (!Operand::kInt8) {
                write(p, row, output, p.bias ? total + bias : total);
            } else if constexpr (whole) {
                const float sum = fused(scale, from_int(total - zero * p.row_sums[row]), 0.0f);
                write(p, row, output, fused(sum, p.row_scales[row], bias));
            } else {
                write(p, row, output, fused(total, p.row_scales[row], bias));
            }
        }
    }
}

}  // namespace tqs::cuda
