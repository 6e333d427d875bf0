// Elementwise chains on the GPU (device/elementwise.cuh).
#include <algorithm>

#include "cuda/device/elementwise.cuh"
#include "cuda/program/kernels.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {
namespace {

constexpr const char* kName = "elementwise";

// Shared memory for registers: half of what a block may have on every GPU from sm_80 up (sm_86 has the least), so that
// two fit on a multiprocessor everywhere; all of it for chains that do not run otherwise.
constexpr std::int64_t kSharedEach = 48 << 10, kSharedMost = 96 << 10;
// Blocks that keep registers in scratch memory at a time: one on each multiprocessor of a large GPU.
constexpr std::int64_t kScratchBlocks = 128;

// Packs that a thread takes at a time: two of float32 where operands have 16 bits and shared memory holds the
// registers.
int parts_of(const ElementwiseTask& task) {
    const auto narrow = [](const Operand& operand) {
        return precision_bytes(operand.precision) == 2;
    };
    const bool any =
        std::any_of(task.in, task.in + task.inputs, narrow) || std::any_of(task.out, task.out + task.outputs, narrow);
    return any && task.registers * 2 * 16 * 32 <= kSharedMost ? 2 : 1;
}

// Threads of a block, or 0 where not even a warp's registers fit into shared memory.
int threads_of(const ElementwiseTask& task, int parts) {
    const std::int64_t pack = 16 * parts;
    for (int threads = kElementwiseThreads; threads >= 32; threads /= 2) {
        if (task.registers * pack * threads <= kSharedEach) return threads;
    }
    return task.registers * pack * 32 <= kSharedMost ? 32 : 0;
}

template <class T>
std::int64_t elementwise_scratch(const ElementwiseTask& task) {
    if (threads_of(task, 1) > 0) return 0;
    return kScratchBlocks * task.registers * kElementwiseThreads * std::int64_t{sizeof(Pack<T>)};
}

struct Launched {
    ElementwiseArgument argument;
    Grid grid;
};

template <class T, int parts>
Launched prepare(const ElementwiseTask& task) {
    constexpr int each = Elements<T, parts>::kEach;
    const std::int64_t lanes = task.extent.lanes;
    const int count = task.inputs + task.outputs;
    const Operand* operands[kElementwiseOperands];
    bool tables = false;
    std::int64_t elements = task.extent.samples * lanes;
    for (int k = 0; k < count; ++k) {
        operands[k] = k < task.inputs ? &task.in[k] : &task.out[k - task.inputs];
        tables = tables || operands[k]->lanes;
    }
    const Operand& out = task.out[0];
    for (int axis = 0; axis < out.rank; ++axis) elements *= out.sizes[axis];

    ElementwiseArgument a{};
    a.tangent = task.extent.tangent && lanes > 1;
    a.each_lane = !a.tangent && (tables || elements > std::numeric_limits<std::int32_t>::max());
    Nest<kElementwiseOperands> nest;
    if (!a.tangent && !a.each_lane) {
        nest.add(lanes, count, [&](int k) { return operands[k]->lane_stride; });
    }
    nest.add(task.extent.samples, count, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < out.rank; ++axis) {
        nest.add(out.sizes[axis], count, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    a.loops = nest.loops(kName, count);
    a.regular = a.loops.rank == 1 || nest.inner() % each == 0;
    for (int k = 0; k < count; ++k) {
        const bool single = a.loops.rank == 1 && nest.inner_stride(k) == 1;
        if (has_vectors<T>(*operands[k]) && (single || nest.vectors(k, each)) &&
            starts_vectors(*operands[k], lanes, each)) {
            a.vectors |= 1u << k;
        }
        a.operands[k] = lanes_of(on_device(*operands[k], lanes));
    }
    a.inputs = task.inputs;
    a.outputs = task.outputs;
    a.registers = task.registers;
    a.instructions = task.instructions;
    a.lanes = lanes;
    a.code = task.instructions > 0 ? context().constant(task.code, task.instructions) : nullptr;
    for (int o = 0; o < task.outputs; ++o) {
        a.output_registers[o] = task.output_registers[o];
        for (int i = 0; a.tangent && i < task.inputs; ++i) a.jacobian[o][i] = task.jacobian[o * task.inputs + i];
    }
    const int threads = threads_of(task, parts);
    a.threads = threads > 0 ? threads : kElementwiseThreads;
    const std::int64_t per_block = std::int64_t{a.threads} * each;
    std::int64_t blocks = (a.loops.count + per_block - 1) / per_block;
    if (threads == 0) {
        blocks = blocks < kScratchBlocks ? blocks : kScratchBlocks;
        a.registers_memory = task.scratch;
    }
    unsigned rows = a.each_lane ? grid_lanes(lanes) : 1;
    if (a.tangent) {
        const TangentShare share = TangentShare::of(lanes, blocks);
        a.tangents_each = share.each;
        rows = share.blocks;
    }
    if (threads == 0 && blocks * rows > kScratchBlocks) {  // registers of no two blocks may be the same
        rows = 1;
        a.tangents_each = lanes;
    }
    return {a, {static_cast<unsigned>(blocks), rows, 1}};
}

template <class T, int parts>
void run_elementwise(const ElementwiseTask& task, const Launched& it) {
    if (it.argument.registers_memory) {
        launch(kName, elementwise<T, 1, false>, it.grid, it.argument.threads, 0, it.argument);
    } else {
        const auto bytes = static_cast<std::size_t>(task.registers) * parts * it.argument.threads * sizeof(Pack<T>);
        launch(kName, elementwise<T, parts, true>, it.grid, it.argument.threads, bytes, it.argument);
    }
}

template <class T>
void elementwise_kernel(const ElementwiseTask& task) {
    if constexpr (sizeof(T) == 4) {
        if (parts_of(task) == 2) {
            const Launched wide = prepare<T, 2>(task);
            if (wide.argument.regular) return run_elementwise<T, 2>(task, wide);
        }
    }
    run_elementwise<T, 1>(task, prepare<T, 1>(task));
}

template <class T>
constexpr ElementwiseKernels kernels = {elementwise_scratch<T>, elementwise_kernel<T>};

}  // namespace

constinit const ElementwiseKernels elementwise_kernels[kPrecisions] = {kernels<float>, kernels<double>, kernels<float>,
                                                                       kernels<float>};

}  // namespace tqs::cuda
