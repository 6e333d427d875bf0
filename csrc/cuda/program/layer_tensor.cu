#include "cuda/device/layer_tensor.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/layer.h"
#include "cuda/program/layer_rows.h"
#include "cuda/program/layer_runs.h"
#include "cuda/program/tilings.h"

namespace tqs::cuda {
namespace {

template <class Element>
void multiply(const LayerTask& task, const Device& device) {
    const std::int64_t lanes = task.extent.lanes, rows = rows_of(task), lane_rows = task.extent.samples * rows;
    auto a = layer_argument<TensorLayerArgument>(task);
    a.x_height = task.height.stride * task.height.x_stride;
    a.x_width = task.width.stride * task.width.x_stride;
    a.lane_rows = Divider::of(lane_rows);
    a.rows = Divider::of(rows);
    a.width = Divider::of(task.width.outputs);
    a.height = Divider::of(task.height.outputs);
    a.groups = static_cast<int>(task.groups);
    a.k = static_cast<int>(task.channels / task.groups);
    a.outputs = static_cast<int>(task.outputs / task.groups);
    a.vectors = a.outputs % kTensorVector == 0 && is_aligned(task.out, lanes);
    with_tensor_shape(device, lanes * lane_rows, a.outputs, task.groups, [&](auto shape) {
        using Shape = decltype(shape);
        a.row_blocks = add_runs(task, lane_rows, Shape::kRows, a);
        a.column_blocks = (a.outputs + Shape::kColumns - 1) / Shape::kColumns;
        const std::int64_t blocks = a.row_blocks * a.column_blocks * a.groups;
        launch("layer", layer_tensor<Element, Shape>, Grid{static_cast<unsigned>(blocks), 1, 1}, Shape::kThreads,
               shared_bytes(layer_tensor_shared_bytes<Shape>()), a);
    });
}

}  // namespace

bool fits_layer_tensor(const LayerTask& task) {
    constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 512;  // places of rows are numbers of 32 bits
    return precision_bytes(task.precision) == 2 && is_linear_in_vectors(task) &&
           task.extent.lanes * task.extent.samples * rows_of(task) <= kMost;
}

void multiply_layer_tensor(const LayerTask& task, const Device& device) {
    if (task.precision == Precision::bfloat16) {
        multiply<Bfloat16>(task, device);
    } else {
        multiply<Float16>(task, device);
    }
}

}  // namespace tqs::cuda
