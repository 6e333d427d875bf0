#include "cuda/device/steps.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/steps.h"

namespace tqs::cuda {
namespace {

unsigned blocks_of(std::int64_t threads) {
    return static_cast<unsigned>((threads + kStepThreads - 1) / kStepThreads);
}

}  // namespace

void move_operand(const MoveTask& task) {
    const Operand* const operands[] = {&task.copy.out, &task.copy.x};
    Nest<2> nest;
    nest.add(task.copy.extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < task.copy.out.rank; ++axis) {
        nest.add(task.copy.out.sizes[axis], 2, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    const std::int64_t lanes = task.copy.extent.lanes;
    MoveArgument a{};
    a.loops = nest.loops("move", 2);
    a.out = lanes_of(on_device(task.copy.out, lanes));
    a.x = lanes_of(on_device(task.copy.x, lanes));
    a.tangent = task.copy.extent.tangent;
    a.lanes = lanes;
    a.out_step = task.out_step;
    a.x_step = task.x_step;
    a.clock = task.clock;
    launch("move", move, Grid{blocks_of(a.loops.count), grid_lanes(lanes), 1}, kStepThreads, 0, a);
}

void collect_output(const CollectTask& task) {
    CollectArgument a{};
    a.task = task;
    a.output = lanes_of(on_device(task.output, task.first + task.lanes));
    launch("collect", collect, Grid{blocks_of(task.lanes * task.block * task.samples * 32), 1, 1}, kStepThreads, 0, a);
}

void advance_clock(std::int64_t* clock) {
    launch("advance", advance, Grid{1, 1, 1}, 32, 0, AdvanceArgument{clock});
}

}  // namespace tqs::cuda
