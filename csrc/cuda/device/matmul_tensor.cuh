// Products of two activations of 16 bits on the tensor cores (MatmulTask): a block takes one tile of one product of one
// lane. k is adjacent in a; in b k or the columns are; rows of either begin at multiples of 16 bytes.
#pragma once

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device/tensor_tile.cuh"

namespace tqs::cuda {

struct TensorMatmulArgument {
    Loops<3> batches;  // samples and leading axes, of a, b, out
    Lanes a, b, out;
    bool tangent, vectors;
    int rows, columns, depth, row_blocks;
    std::int64_t a_row, b_step, out_row;  // b_step: of a column, or of a position of k where columns are adjacent
};

template <class Element, class Shape, bool columns_adjacent>
__global__ void __launch_bounds__(Shape::kThreads) matmul_tensor(const TensorMatmulArgument p) {
    begin_kernel();
    const std::int64_t product = blockIdx.x / p.row_blocks, lane = product / p.batches.count;
    const auto batch = static_cast<std::uint32_t>(product - lane * p.batches.count);
    const int first_row = static_cast<int>(blockIdx.x - product * p.row_blocks) * Shape::kRows;
    const std::int64_t across = blockIdx.z * gridDim.y + blockIdx.y;
    if (across * Shape::kColumns >= p.columns) return;  // the whole block
    const int first_column = static_cast<int>(across) * Shape::kColumns;

    struct Pair {
        const std::uint16_t *a, *b;
    };
    const auto pair_of_lanes = [&](std::int64_t of_a, std::int64_t of_b) -> Pair {
        const char *const a = p.a.lane(of_a, p.tangent), *const b = p.b.lane(of_b, p.tangent);
        if (!a || !b) return {nullptr, nullptr};
        return {reinterpret_cast<const std::uint16_t*>(a) + p.batches.offset(0, batch),
                reinterpret_cast<const std::uint16_t*>(b) + p.batches.offset(1, batch)};
    };
    // da b + a db, without what is zero.
    const bool moved = p.tangent && lane > 0;
    Pair first = pair_of_lanes(lane, moved ? 0 : lane);
    const Pair second = moved ? pair_of_lanes(0, lane) : Pair{nullptr, nullptr};
    const int products = (first.a ? 1 : 0) + (second.a ? 1 : 0);
    if (!first.a) first = second;

    TensorSums<Shape> sums = {};
    const int units = (p.depth + kTensorDepth - 1) / kTensorDepth;
    const auto fill = [&](int number, unsigned char* left, unsigned char* right) {
        const int first_k = (number >= units ? number - units : number) * kTensorDepth;
        const std::uint16_t* const a = number >= units ? second.a : first.a;
        const std::uint16_t* const b = number >= units ? second.b : first.b;
        fill_slab<Shape, Shape::kRows>(left, [&](int row, int vector) -> TensorSource {
            const int k = first_k + vector * kTensorVector;
            return {a + (first_row + row) * p.a_row + k, k < p.depth && first_row + row < p.rows};
        });
        if constexpr (columns_adjacent) {
#pragma unroll
            for (int slab = 0; slab < Shape::kColumns / 64; ++slab) {
                fill_slab<Shape, kTensorDepth>(
                    right + slab * kTensorDepth * kTensorPitch, [&](int row, int vector) -> TensorSource {
                        const int k = first_k + row, column = first_column + 64 * slab + vector * kTensorVector;
                        return {b + k * p.b_step + column, k < p.depth && column < p.columns};
                    });
            }
        } else {
            fill_slab<Shape, Shape::kColumns>(right, [&](int column, int vector) -> TensorSource {
                const int k = first_k + vector * kTensorVector;
                return {b + (first_column + column) * p.b_step + k, k < p.depth && first_column + column < p.columns};
            });
        }
    };
    multiply_stages<Element, Shape, columns_adjacent>(products * units, fill, sums);

    auto* const out = reinterpret_cast<Element*>(p.out.lane(lane, false)) + p.batches.offset(2, batch) + first_column;
    write_tile<Element, Shape>(
        sums, p.columns - first_column, p.vectors, [](int) -> const Element* { return nullptr; },
        [&](int row) { return first_row + row < p.rows ? out + (first_row + row) * p.out_row : nullptr; });
}

}  // namespace tqs::cuda
