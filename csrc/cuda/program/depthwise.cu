// Depthwise convolution on the GPU (device/depthwise.cuh); products.cu has it in its table.
#include "cuda/device/depthwise.cuh"
#include "cuda/program/kernels.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {

std::int64_t depthwise_scratch(const DepthwiseTask&) {
    return 0;
}

template <class Stored>
void depthwise(const DepthwiseTask& task) {
    const int c = task.out.rank - 2, l = task.out.rank - 1;
    const Operand* const operands[] = {&task.out, &task.x};
    Nest<2> nest;
    nest.add(task.extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < c; ++axis) {
        nest.add(task.out.sizes[axis], 2, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    const std::int64_t filters = task.out.sizes[c], positions = task.out.sizes[l], lanes = task.extent.lanes;
    const std::int64_t elements = nest.elements() * filters * positions;
    require(elements <= std::numeric_limits<std::int32_t>::max() - kDepthwiseThreads, "depthwise",
            "expected fewer than 2^31 outputs per lane, got ", elements, "; use fewer samples");
    const bool filters_inside = task.out.strides[c] == 1;
    const DepthwiseArgument a{.loops = nest.loops("depthwise", 2),
                              .x = lanes_of(on_device(task.x, lanes)),
                              .weight = lanes_of(on_device(task.weight, lanes)),
                              .bias = lanes_of(on_device(task.bias, lanes)),
                              .out = lanes_of(on_device(task.out, lanes)),
                              .inner = Divider::of(filters_inside ? filters : positions),
                              .middle = Divider::of(filters_inside ? positions : filters),
                              .filters_inside = filters_inside,
                              .multiplier = static_cast<std::uint32_t>(task.multiplier),
                              .taps = static_cast<std::uint32_t>(task.weight.sizes[2]),
                              .x_length = task.x.sizes[l],
                              .stride = task.stride,
                              .padding = task.padding,
                              .dilation = task.dilation,
                              .out_channel = task.out.strides[c],
                              .out_step = task.out.strides[l],
                              .x_channel = task.x.strides[c],
                              .x_step = task.x.strides[l],
                              .weight_channel = task.weight.strides[0],
                              .weight_tap = task.weight.strides[2],
                              .bias_channel = task.bias.strides[0],
                              .biased = task.bias.data || task.bias.lanes,
                              .tangent = task.extent.tangent,
                              .lanes = lanes};
    const auto blocks = static_cast<unsigned>((elements + kDepthwiseThreads - 1) / kDepthwiseThreads);
    launch("depthwise", depthwise_convolution<Stored>, Grid{blocks, grid_lanes(lanes), 1}, kDepthwiseThreads, 0, a);
}

template void depthwise<float>(const DepthwiseTask& task);
template void depthwise<double>(const DepthwiseTask& task);
template void depthwise<Bfloat16>(const DepthwiseTask& task);
template void depthwise<Float16>(const DepthwiseTask& task);

}  // namespace tqs::cuda
