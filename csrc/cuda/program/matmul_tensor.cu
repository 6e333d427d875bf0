#include "cuda/device/matmul_tensor.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/matmul_operands.h"
#include "cuda/program/matmul_tensor.h"
#include "cuda/program/tensor_operands.h"
#include "cuda/program/tilings.h"

namespace tqs::cuda {
namespace {

// The axes of one product: whether its rows, and the products, begin at multiples of eight elements.
bool steps_by_vectors(const Operand& operand, int adjacent) {
    for (int axis = 0; axis < operand.rank; ++axis) {
        if (axis == adjacent) {
            if (operand.sizes[axis] > 1 && operand.strides[axis] != 1) return false;
        } else if (axis_stride(operand, axis) % kTensorVector != 0) {
            return false;
        }
    }
    return operand.sizes[adjacent] % kTensorVector == 0;
}

bool columns_adjacent(const MatmulTask& task) {
    return steps_by_vectors(task.b, task.b.rank - 1);
}

template <class Element, bool by_columns>
void multiply(const MatmulTask& task) {
    const int rank = task.out.rank;
    const std::int64_t lanes = task.extent.lanes;
    auto p = matmul_argument<TensorMatmulArgument>(task);
    p.vectors = is_aligned(task.out, lanes) && steps_by_vectors(task.out, rank - 1);
    p.b_step = task.b.strides[by_columns ? rank - 2 : rank - 1];
    const std::int64_t products = lanes * p.batches.count;
    with_tensor_shape(current_device(), p.rows, p.columns, products, [&](auto shape) {
        using Shape = decltype(shape);
        p.row_blocks = (p.rows + Shape::kRows - 1) / Shape::kRows;
        const std::int64_t across = (p.columns + Shape::kColumns - 1) / Shape::kColumns;
        launch("matmul", matmul_tensor<Element, Shape, by_columns>,
               Grid{static_cast<unsigned>(products * p.row_blocks), grid_lanes(across), grid_rests(across)},
               Shape::kThreads, shared_bytes(Shape::kRingBytes), p);
    });
}

template <class Element>
void multiply(const MatmulTask& task) {
    if (columns_adjacent(task)) {
        multiply<Element, true>(task);
    } else {
        multiply<Element, false>(task);
    }
}

}  // namespace

bool fits_matmul_tensor(const MatmulTask& task) {
    const std::int64_t lanes = task.extent.lanes;
    const int last = task.out.rank - 1;
    if (precision_bytes(task.a.precision) != 2 || !is_aligned(task.a, lanes) || !is_aligned(task.b, lanes))
        return false;
    return steps_by_vectors(task.a, last) && (columns_adjacent(task) || steps_by_vectors(task.b, last - 1));
}

void multiply_matmul_tensor(const MatmulTask& task) {
    if (task.a.precision == Precision::bfloat16) {
        multiply<Bfloat16>(task);
    } else {
        multiply<Float16>(task);
    }
}

}  // namespace tqs::cuda
