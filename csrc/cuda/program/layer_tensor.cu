#include "cuda/device/layer_tensor.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/layer.h"
#include "cuda/program/layer_runs.h"
#include "cuda/program/tensor_operands.h"
#include "cuda/program/tilings.h"

namespace tqs::cuda {
namespace {

bool of_one_tap(const WindowAxis& axis) {
    return axis.taps == 1 && axis.padding == 0 && axis.stride * axis.x_stride % kTensorVector == 0;
}

std::int64_t rows_of(const LayerTask& task) {
    return task.batch * task.height.outputs * task.width.outputs;
}

template <class Element>
void multiply(const LayerTask& task, const Device& device) {
    const std::int64_t lanes = task.extent.lanes, rows = rows_of(task), lane_rows = task.extent.samples * rows;
    TensorLayerArgument a{};
    a.tangent = task.extent.tangent;
    a.x = lanes_of(on_device(task.x, lanes));
    a.biased = task.bias.data != nullptr;
    if (a.biased) a.bias = lanes_of(on_device(task.bias, lanes));
    a.out = lanes_of(task.out);
    a.x_sample = task.x.sample_stride;
    a.out_sample = task.out.sample_stride;
    a.x_batch = task.x_batch;
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
        const std::vector<LayerRun> runs = runs_of(task, lane_rows, Shape::kRows, a.row_blocks);
        a.runs = context().constant(runs.data(), static_cast<std::int64_t>(runs.size()));
        a.run_count = static_cast<int>(runs.size());
        a.column_blocks = (a.outputs + Shape::kColumns - 1) / Shape::kColumns;
        const std::int64_t blocks = a.row_blocks * a.column_blocks * a.groups;
        launch("layer", layer_tensor<Element, Shape>, Grid{static_cast<unsigned>(blocks), 1, 1}, Shape::kThreads,
               shared_bytes(layer_tensor_shared_bytes<Shape>()), a);
    });
}

}  // namespace

bool fits_layer_tensor(const LayerTask& task) {
    constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 512;  // places of rows are numbers of 32 bits
    if (precision_bytes(task.precision) != 2) return false;
    const std::int64_t lanes = task.extent.lanes, k = task.channels / task.groups;
    if (k % kTensorVector != 0 || (k > 1 && task.x_channel != 1)) return false;
    if (!of_one_tap(task.height) || !of_one_tap(task.width) || task.x_batch % kTensorVector != 0) return false;
    if (lanes * task.extent.samples * rows_of(task) > kMost) return false;
    return is_aligned(task.x, lanes) && (task.weights ? are_aligned(task.weights, lanes) : is_aligned(task.weight));
}

void multiply_layer_tensor(const LayerTask& task, const Device& device) {
    if (task.precision == Precision::bfloat16) {
        multiply<Bfloat16>(task, device);
    } else {
        multiply<Float16>(task, device);
    }
}

}  // namespace tqs::cuda
