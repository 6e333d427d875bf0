#include "cuda/device/noise.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/variants.h"

namespace tqs::cuda {

void add_noise(const NoiseTask& task) {
    const std::int64_t item = precision_bytes(task.precision), begin = task.begin * item;
    const auto* from = static_cast<const char*>(task.from);
    auto* to = static_cast<char*>(task.to);
    const auto copy = [&](std::int64_t first, std::int64_t end) {
        if (from == to || first == end) return;
        check_cuda(cudaMemcpyAsync(to + first, from + first, static_cast<std::size_t>(end - first), cudaMemcpyDefault,
                                   context().stream()),
                   "noise", "cudaMemcpyAsync");
    };
    copy(0, begin);
    copy(begin + task.count * item, task.elements * item);
    if (task.count == 0) return;
    const std::int64_t each = 4 * kNoiseThreads, blocks = (task.count + each - 1) / each;
    const NoiseArgument argument{from + begin, to + begin, task.precision, task.count,
                                 task.scale,   task.seed,  task.stream};
    launch("noise", draw_noise, Grid{static_cast<unsigned>(blocks), 1, 1}, kNoiseThreads, 0, argument);
}

}  // namespace tqs::cuda
