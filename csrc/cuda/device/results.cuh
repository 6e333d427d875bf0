// From the totals of a warp to y, element by element or through shared memory.
#pragma once

#include "cuda/device/operand.cuh"

namespace tqs::cuda {

// Calls put(row, output, value) for totals [fragments, 4]: one tile of 16 outputs and 8 fragments rows of x from
// `first_row` on, as the tensor instructions leave them. `whole`: integers, over all of K.
template <class Operand, bool whole, class Total, int fragments, class Put>
__device__ inline void put_results(const Product& p, int tile, int first_row, const Total (&totals)[fragments][4],
                                   const Put& put) {
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
                put(row, output, p.bias ? total + bias : total);
            } else if constexpr (whole) {
                const float sum = fused(scale, from_int(total - zero * p.row_sums[row]), 0.0f);
                put(row, output, fused(sum, p.row_scales[row], bias));
            } else {
                put(row, output, fused(total, p.row_scales[row], bias));
            }
        }
    }
}

template <class Operand, bool whole, class Total, int fragments>
__device__ inline void write_results(const Product& p, int tile, int first_row, const Total (&totals)[fragments][4]) {
    put_results<Operand, whole>(p, tile, first_row, totals,
                                [&](int row, int output, float value) { write(p, row, output, value); });
}

// By the first `threads` threads of a block, when the others have left: the same for `outputs` outputs from
// first_output on, through `shared`, so that a row is written by vectors of neighbouring threads. Every thread brings
// its totals of `tile`.
template <class Operand, bool whole, int outputs, int threads, class Total, int fragments>
__device__ inline void write_results_by_rows(const Product& p, int tile, int first_output, int first_row,
                                             const Total (&totals)[fragments][4], unsigned char* shared) {
    const int bytes = p.dtype == 0 ? 4 : 2, pitch = outputs * bytes + 16;
    part_barrier<threads>();  // what was in `shared` is read: stages, or of a split (split.cuh) which block came last
    Product here = p;
    here.y = shared;
    here.y_stride = pitch / bytes;
    put_results<Operand, whole>(p, tile, first_row, totals, [&](int row, int output, float value) {
        write(here, row - first_row, output - first_output, value);
    });
    part_barrier<threads>();
    const int each = 16 / bytes, vectors = outputs / each;
    auto* const y = static_cast<unsigned char*>(p.y);
    const bool aligned = reinterpret_cast<std::uintptr_t>(y) % 16 == 0 && p.y_stride % each == 0;
    for (int i = static_cast<int>(threadIdx.x); i < 8 * fragments * vectors; i += threads) {
        const int row = first_row + i / vectors, output = first_output + i % vectors * each;
        const unsigned char* from = shared + i / vectors * pitch + i % vectors * 16;
        unsigned char* to = y + (row * p.y_stride + output) * bytes;
        const Vector vector = load_from_shared(from);
        if (row >= p.rows) continue;
        if (aligned && output + each <= p.outputs) {
            *reinterpret_cast<Vector*>(to) = vector;
        } else {
            for (int e = 0; e < each && output + e < p.outputs; ++e) {
                if (bytes == 4) {
                    reinterpret_cast<std::uint32_t*>(to)[e] = reinterpret_cast<const std::uint32_t*>(from)[e];
                } else {
                    reinterpret_cast<std::uint16_t*>(to)[e] = reinterpret_cast<const std::uint16_t*>(from)[e];
                }
            }
        }
    }
}

}  // namespace tqs::cuda
