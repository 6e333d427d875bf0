// What a kernel of layers is told of a LayerTask: its operands, and runs of its lanes, cut into blocks of rows.
#pragma once

#include <vector>

#include "backend/device.h"
#include "cuda/device/lanes.cuh"
#include "cuda/device/layer_run.cuh"
#include "cuda/program/context.h"

namespace tqs::cuda {

// The weights that lane `lane` multiplies by: its own, and those that multiply lane 0's x.
inline LayerRun weights_of(const LayerTask& task, std::int64_t lane) {
    LayerRun run{0, lane, 1, task.weights ? task.weights[task.extent.tangent ? 0 : lane] : task.weight, nullptr};
    if (!task.extent.tangent || lane == 0) return run;
    if (is_shared(task.x)) run.weight = nullptr;
    if (task.weights) run.tangent = task.weights[lane];
    return run;
}

template <class Argument>
Argument layer_argument(const LayerTask& task) {
    const std::int64_t lanes = task.extent.lanes;
    Argument a{};
    a.tangent = task.extent.tangent;
    a.x = lanes_of(on_device(task.x, lanes));
    a.biased = task.bias.data != nullptr;
    if (a.biased) a.bias = lanes_of(on_device(task.bias, lanes));
    a.out = lanes_of(task.out);
    a.x_sample = task.x.sample_stride;
    a.out_sample = task.out.sample_stride;
    a.x_batch = task.x_batch;
    return a;
}

// Adds runs of lanes with the same weights, of `rows` rows per lane; how many blocks of `edge` rows they are.
template <class Argument>
std::int64_t add_runs(const LayerTask& task, std::int64_t rows, int edge, Argument& a) {
    std::vector<LayerRun> runs;
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        const LayerRun own = weights_of(task, lane);
        if (!runs.empty() && runs.back().weight == own.weight && runs.back().tangent == own.tangent) {
            ++runs.back().lanes;
        } else {
            runs.push_back(own);
        }
    }
    std::int64_t blocks = 0;
    for (LayerRun& run : runs) {
        run.block = blocks;
        blocks += (run.lanes * rows + edge - 1) / edge;
    }
    a.runs = context().constant(runs.data(), static_cast<std::int64_t>(runs.size()));
    a.run_count = static_cast<int>(runs.size());
    return blocks;
}

}  // namespace tqs::cuda
