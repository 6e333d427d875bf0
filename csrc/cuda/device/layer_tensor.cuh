// Linear layers of 16-bit operands on the tensor cores (LayerTask): all lanes in one launch, in *runs* as in layer.cuh,
// for rows and weights whose k is adjacent, at multiples of 16 bytes. The stages of a tangent's second product follow
// those of the first in the same ring, into the same sums.
#pragma once

#include "backend/device.h"
#include "cuda/device/lanes.cuh"
#include "cuda/device/layer_run.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device/tensor_tile.cuh"

namespace tqs::cuda {

struct TensorLayerArgument {
    const LayerRun* runs;
    int run_count;
    bool tangent, biased, vectors;
    Lanes x, bias, out;
    std::int64_t x_sample, out_sample, x_batch, x_height, x_width;  // elements from one to the next
    Divider lane_rows, rows, width, height;  // of a lane; of a lane and sample; positions along the two axes
    int groups, k, outputs, column_blocks;   // the last three of a group
    std::int64_t row_blocks;
};

// What a row of the tile is: read from x_l and x_0 (null: zeros), written to `out` (null: nowhere).
struct TensorRow {
    const std::uint16_t* x[2];
    std::uint16_t* out;
    std::uint16_t* bias;
};

__device__ inline TensorRow tensor_row(const TensorLayerArgument& a, const LayerRun& run, std::int64_t place,
                                       int group) {
    const auto m = static_cast<std::uint32_t>(place);
    const std::uint32_t number = a.lane_rows.quotient(m), of_lane = m - number * a.lane_rows.divisor;
    if (place >= run.lanes * a.lane_rows.divisor) return {};
    const std::uint32_t sample = a.rows.quotient(of_lane), row = of_lane - sample * a.rows.divisor;
    const std::uint32_t line = a.width.quotient(row), w = row - line * a.width.divisor;
    const std::uint32_t image = a.height.quotient(line), h = line - image * a.height.divisor;
    const std::int64_t lane = run.lane + number, columns = std::int64_t{a.outputs} * a.groups;
    const std::int64_t from =
        sample * a.x_sample + image * a.x_batch + h * a.x_height + w * a.x_width + std::int64_t{group} * a.k;
    TensorRow result{};
    const char* const own = a.x.lane(lane, a.tangent);
    if (own) result.x[0] = reinterpret_cast<const std::uint16_t*>(own) + from;
    result.x[1] = reinterpret_cast<const std::uint16_t*>(a.x.lane(0, a.tangent)) + from;
    result.out = reinterpret_cast<std::uint16_t*>(a.out.lane(lane, false)) + sample * a.out_sample + row * columns +
                 std::int64_t{group} * a.outputs;
    if (char* const bias = a.biased ? a.bias.lane(lane, a.tangent) : nullptr) {
        result.bias = reinterpret_cast<std::uint16_t*>(bias) + std::int64_t{group} * a.outputs;
    }
    return result;
}

template <class Shape>
constexpr int layer_tensor_shared_bytes() {
    return Shape::kRingBytes + Shape::kRows * static_cast<int>(sizeof(TensorRow));
}

template <class Element, class Shape>
__global__ void __launch_bounds__(Shape::kThreads) layer_tensor(const TensorLayerArgument a) {
    begin_kernel();
    // Blocks that run together share what they read: eight blocks of columns side by side, then the next rows.
    constexpr int kPanel = 8;
    const int across = a.groups * a.column_blocks;
    const auto panel = static_cast<int>(blockIdx.x / (a.row_blocks * kPanel));
    const std::int64_t rest = blockIdx.x - panel * a.row_blocks * kPanel;
    const int width = across - panel * kPanel < kPanel ? across - panel * kPanel : kPanel;
    const std::int64_t block = rest / width;
    const int column_block = panel * kPanel + static_cast<int>(rest - block * width);
    const LayerRun& run = run_of_block(a.runs, a.run_count, block);
    const int group = column_block / a.column_blocks;
    const int first_column = (column_block - group * a.column_blocks) * Shape::kColumns;
    auto* const rows = reinterpret_cast<TensorRow*>(shared_memory() + Shape::kRingBytes);
    for (int row = static_cast<int>(threadIdx.x); row < Shape::kRows; row += Shape::kThreads) {
        rows[row] = tensor_row(a, run, (block - run.block) * Shape::kRows + row, group);
    }
    block_barrier();

    TensorSums<Shape> sums = {};
    const int units = (a.k + kTensorDepth - 1) / kTensorDepth, products = (run.weight ? 1 : 0) + (run.tangent ? 1 : 0);
    const auto fill = [&](int number, unsigned char* left, unsigned char* right) {
        const bool second = number >= units || !run.weight;
        const int first_k = (number >= units ? number - units : number) * kTensorDepth;
        const auto* const weight = static_cast<const std::uint16_t*>(second ? run.tangent : run.weight) +
                                   (std::int64_t{group} * a.outputs + first_column) * a.k;
        const int columns = a.outputs - first_column;
        fill_slab<Shape, Shape::kRows>(left, [&](int row, int vector) -> TensorSource {
            const int k = first_k + vector * kTensorVector;
            const std::uint16_t* const x = rows[row].x[second];
            return {x + k, k < a.k && x};
        });
        fill_slab<Shape, Shape::kColumns>(right, [&](int column, int vector) -> TensorSource {
            const int k = first_k + vector * kTensorVector;
            return {weight + std::int64_t{column} * a.k + k, k < a.k && column < columns};
        });
    };
    multiply_stages<Element, Shape, false>(products * units, fill, sums);

    const auto moved = [&](std::uint16_t* row) {
        return row ? reinterpret_cast<Element*>(in_global(row)) + first_column : nullptr;
    };
    write_tile<Element, Shape>(
        sums, a.outputs - first_column, a.vectors, [&](int row) -> const Element* { return moved(rows[row].bias); },
        [&](int row) { return moved(rows[row].out); });
}

}  // namespace tqs::cuda
