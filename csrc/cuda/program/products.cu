// Products of activations on the GPU; those with weights are layer.cu.
#include "cuda/device/matmul.cuh"
#include "cuda/program/kernels.h"
#include "cuda/program/launch.cuh"
#include "cuda/program/matmul_operands.h"
#include "cuda/program/matmul_tensor.h"
#include "cuda/program/tilings.h"

namespace tqs::cuda {
namespace {

template <class Stored>
void multiply(const MatmulTask& task) {
    if (fits_matmul_tensor(task)) return multiply_matmul_tensor(task);
    const int rank = task.out.rank;
    auto p = matmul_argument<MatmulArgument>(task);
    p.a_k = task.a.strides[rank - 1];
    p.b_k = task.b.strides[rank - 2];
    p.b_column = task.b.strides[rank - 1];
    const std::int64_t products = task.extent.lanes * p.batches.count;
    with_tiling<Computed<Stored>>(current_device().multiprocessors, p.rows, p.columns, products, [&](auto tile) {
        using Tile = decltype(tile);
        p.row_blocks = (p.rows + Tile::kEdge - 1) / Tile::kEdge;
        const std::int64_t across = (p.columns + Tile::kEdge - 1) / Tile::kEdge;
        launch("matmul", matmul<Stored, Tile::kEach>,
               Grid{static_cast<unsigned>(products * p.row_blocks), grid_lanes(across), grid_rests(across)},
               kProductThreads, shared_bytes(Tile::kSharedBytes), p);
    });
}

std::int64_t no_scratch(const MatmulTask&) {
    return 0;
}

// Weights stay as they are, and products with them are layers (backend/device.h): nothing packs, and there is no gemm.
template <class Stored>
constexpr ProductKernels kernels = {.panel_columns = 1,
                                    .packed_elements = nullptr,
                                    .pack = nullptr,
                                    .gemm = nullptr,
                                    .matmul_scratch = no_scratch,
                                    .matmul = multiply<Stored>,
                                    .depthwise_scratch = depthwise_scratch,
                                    .depthwise = depthwise<Stored>};

}  // namespace

constinit const ProductKernels product_kernels[kPrecisions] = {kernels<float>, kernels<double>, kernels<Bfloat16>,
                                                               kernels<Float16>};

}  // namespace tqs::cuda
