// Runs of lanes of a LayerTask, cut into blocks of rows.
#pragma once

#include <vector>

#include "backend/device.h"
#include "cuda/device/layer_run.cuh"

namespace tqs::cuda {

// The weights that lane `lane` multiplies by: its own, and those that multiply lane 0's x.
inline LayerRun weights_of(const LayerTask& task, std::int64_t lane) {
    LayerRun run{0, lane, 1, task.weights ? task.weights[task.extent.tangent ? 0 : lane] : task.weight, nullptr};
    if (!task.extent.tangent || lane == 0) return run;
    if (is_shared(task.x)) run.weight = nullptr;
    if (task.weights) run.tangent = task.weights[lane];
    return run;
}

// Runs of lanes with the same weights; blocks of `edge` rows, and how many there are in all.
inline std::vector<LayerRun> runs_of(const LayerTask& task, std::int64_t rows, int edge, std::int64_t& blocks) {
    std::vector<LayerRun> runs;
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        const LayerRun own = weights_of(task, lane);
        if (!runs.empty() && runs.back().weight == own.weight && runs.back().tangent == own.tangent) {
            ++runs.back().lanes;
        } else {
            runs.push_back(own);
        }
    }
    blocks = 0;
    for (LayerRun& run : runs) {
        run.block = blocks;
        blocks += (run.lanes * rows + edge - 1) / edge;
    }
    return runs;
}

}  // namespace tqs::cuda
