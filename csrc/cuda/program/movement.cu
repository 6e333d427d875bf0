// Copies, remaps and gathers on the GPU (device/movement.cuh).
#include <algorithm>
#include <vector>

#include "cuda/device/movement.cuh"
#include "cuda/program/kernels.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {
namespace {

unsigned blocks_of(std::int64_t threads) {
    return static_cast<unsigned>((threads + kMovementThreads - 1) / kMovementThreads);
}

// ------------------------------------------------------------------------------------------------ copy

struct Axis {
    std::int64_t size, out, x;
};

Nest<2> nest_of(const std::vector<Axis>& axes) {
    Nest<2> nest;
    for (const Axis& axis : axes) {
        const std::int64_t strides[] = {axis.out, axis.x};
        nest.add(axis.size, 2, [&](int k) { return strides[k]; });
    }
    return nest;
}

// The last two axes become a transposition, if x is adjacent along one and out along the other, and both are long.
bool find_transposition(std::vector<Axis>& axes) {
    constexpr std::int64_t kLong = 8;  // a quarter of a square's edge
    if (axes.empty() || axes.back().out != 1 || axes.back().x <= 1 || axes.back().size < kLong) return false;
    for (std::size_t axis = 0; axis + 1 < axes.size(); ++axis) {
        if (axes[axis].x != 1 || axes[axis].size < kLong) continue;
        std::swap(axes[axis], axes[axes.size() - 2]);
        return true;
    }
    return false;
}

template <class T>
bool in_packs(const Operand& operand) {
    return operand.precision == kPrecisionOf<T> && reinterpret_cast<std::uintptr_t>(operand.data) % 16 == 0 &&
           operand.lane_stride % Pack<T>::kEach == 0 && !operand.lanes;
}

template <class T>
void copy_kernel(const CopyTask& task) {
    const Operand &x = task.x, &out = task.out;
    std::vector<Axis> axes;
    const auto add = [&](std::int64_t size, std::int64_t to, std::int64_t from) {
        if (size > 1) axes.push_back({size, to, from});
    };
    add(task.extent.samples, out.sample_stride, x.sample_stride);
    for (int axis = 0; axis < out.rank; ++axis) add(out.sizes[axis], out.strides[axis], axis_stride(x, axis));
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.out > b.out; });

    CopyArgument a{};
    a.lanes = task.extent.lanes;
    a.tangent = task.extent.tangent;
    a.out = lanes_of(on_device(out, a.lanes));
    a.x = lanes_of(on_device(x, a.lanes));
    const unsigned lanes = grid_lanes(a.lanes);
    if (find_transposition(axes)) {
        const Axis column = axes.back(), row = axes[axes.size() - 2];
        axes.resize(axes.size() - 2);
        a.loops = nest_of(axes).loops("copy", 2);
        a.rows = static_cast<std::uint32_t>(row.size);
        a.columns = static_cast<std::uint32_t>(column.size);
        a.out_row = row.out;
        a.x_column = column.x;
        const auto squares = [](std::uint32_t size) {
            return (size + kSquare - 1) / kSquare;
        };
        const Grid grid{a.loops.count * squares(a.rows) * squares(a.columns), lanes, 1};
        constexpr std::size_t shared = (kSquare * (kSquare + 1) * sizeof(T) + 127) / 128 * 128;
        launch("copy", transpose<T>, grid, kMovementThreads, shared, a);
        return;
    }
    const Nest<2> nest = nest_of(axes);
    a.loops = nest.loops("copy", 2);
    constexpr int each = Pack<T>::kEach;
    a.whole_packs = in_packs<T>(x) && in_packs<T>(out) && nest.vectors(0, each) && nest.vectors(1, each);
    launch("copy", copy<T>, Grid{blocks_of(a.whole_packs ? a.loops.count / each : a.loops.count), lanes, 1},
           kMovementThreads, 0, a);
}

// ------------------------------------------------------------------------------------------------ remap

template <class T>
void remap_kernel(const RemapTask& task) {
    std::vector<Run> runs(task.run, task.run + task.runs);
    std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.to < b.to; });
    const std::int64_t lanes = task.extent.lanes, elements = runs.empty() ? 0 : runs.back().to + runs.back().count;
    if (elements == 0) return;
    const RemapArgument a{.out = lanes_of(on_device(task.out, lanes)),
                          .x = lanes_of(on_device(task.x, lanes)),
                          .run = context().constant(runs.data(), task.runs),
                          .runs = static_cast<std::uint32_t>(task.runs),
                          .elements = static_cast<std::uint32_t>(elements),
                          .samples = task.extent.samples,
                          .out_sample = task.out.sample_stride,
                          .x_sample = task.x.sample_stride,
                          .fill = task.fill,
                          .tangent = task.extent.tangent,
                          .lanes = lanes};
    launch("remap", remap<T>, Grid{blocks_of(elements), grid_lanes(lanes), grid_lanes(a.samples)}, kMovementThreads, 0,
           a);
}

// ------------------------------------------------------------------------------------------------ gather

template <class T>
void gather_kernel(const GatherTask& task) {
    const Operand* const operands[] = {&task.out, &task.index, &task.x};
    Nest<3> nest;
    nest.add(task.extent.samples, 3, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < task.out.rank; ++axis) {
        nest.add(task.out.sizes[axis], 3, [&](int k) {
            return k == 2 && axis == task.axis ? std::int64_t{0} : axis_stride(*operands[k], axis);
        });
    }
    const std::int64_t lanes = task.extent.lanes;
    const GatherArgument a{.loops = nest.loops("gather", 3),
                           .out = lanes_of(on_device(task.out, lanes)),
                           .index = lanes_of(on_device(task.index, lanes)),
                           .x = lanes_of(on_device(task.x, lanes)),
                           .step = task.x.strides[task.axis],
                           .size = task.x.sizes[task.axis],
                           .tangent = task.extent.tangent,
                           .lanes = lanes};
    launch("gather", gather<T>, Grid{blocks_of(a.loops.count), grid_lanes(lanes), 1}, kMovementThreads, 0, a);
}

template <class T>
constexpr MovementKernels kernels = {copy_kernel<T>, remap_kernel<T>, gather_kernel<T>};

}  // namespace

constinit const MovementKernels movement_kernels[kPrecisions] = {kernels<float>, kernels<double>, kernels<Bfloat16>,
                                                                 kernels<Float16>};

}  // namespace tqs::cuda
