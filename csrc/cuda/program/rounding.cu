#include "cuda/device/rounding.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/variants.h"

namespace tqs::cuda {

void round_weights(const RoundTask& task, const ScaleRatios& ratios) {
    const std::int64_t width = task.group_size == 0 ? task.columns : task.group_size;
    const std::int64_t groups = (task.columns + width - 1) / width, warps = kRoundThreads / 32;
    const std::int64_t blocks = (task.rows * groups + warps - 1) / warps;
    launch("round", round_groups, Grid{static_cast<unsigned>(blocks), 1, 1}, kRoundThreads, 0,
           RoundArgument{task, ratios, groups, width});
}

}  // namespace tqs::cuda
