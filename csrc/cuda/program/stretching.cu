// Frames are factored level by level (device/orthonormalize.cuh): up, then the statistics, then down.
#include <vector>

#include "cuda/device/stretching.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/stretching.h"

namespace tqs::cuda {
namespace {

constexpr const char* kName = "growth";

// `unit`: as in LevelArgument.
std::int64_t chunks_of(std::int64_t rows, std::int64_t unit, std::int64_t directions) {
    const std::int64_t units = rows / unit, most = chunk_rows(directions) / unit;
    return (units + most - 1) / most;
}

// Numbers that a level adds to the scratch: factors, and triangles.
std::int64_t level_numbers(std::int64_t samples, std::int64_t directions, std::int64_t chunks) {
    return samples * chunks * directions * (1 + directions);
}

template <class Kernel>
void launch_level(Kernel kernel, const LevelArgument& a, std::int64_t samples) {
    const std::int64_t blocks = samples * a.chunks;
    require(blocks <= std::numeric_limits<std::int32_t>::max(), kName,
            "expected fewer than 2^31 chunks of frames, got ", blocks, "; use fewer samples");
    const std::int64_t rows = (a.rows / a.unit + a.chunks - 1) / a.chunks * a.unit;
    launch(kName, kernel, Grid{static_cast<unsigned>(blocks), 1, 1}, kFrameThreads,
           static_cast<std::size_t>(chunk_bytes(rows, a.directions)), a);
}

}  // namespace

std::int64_t stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size) {
    if (!chunks_fit(directions)) return -1;
    std::int64_t chunks = chunks_of(size, 1, directions);
    std::int64_t bytes = 8 * ((samples * chunks + 1) / 2);  // of what was found, int
    for (;; chunks = chunks_of(chunks * directions, directions, directions)) {
        bytes += 8 * level_numbers(samples, directions, chunks);
        if (chunks == 1) return bytes;
    }
}

void stretch_frames(const StretchTask& task) {
    const std::int64_t samples = task.samples, K = task.directions;
    LevelArgument level{};
    level.columns = task.frames + task.size;
    level.rows = task.size;
    level.unit = 1;
    level.sample_step = (1 + K) * task.size;
    level.directions = K;
    level.chunks = chunks_of(task.size, 1, K);
    level.state = task.frames;
    level.found = static_cast<int*>(task.scratch);
    level.failed = task.failed;
    double* free = static_cast<double*>(task.scratch) + (samples * level.chunks + 1) / 2;
    const StretchArgument stretch{task, level.chunks, level.found, nullptr};
    std::vector<LevelArgument> levels;
    for (;;) {
        level.top = level.chunks == 1;
        level.factors = free;
        level.above = free + samples * level.chunks * K;
        free += level_numbers(samples, K, level.chunks);
        levels.push_back(level);
        launch_level(factor_chunks, level, samples);
        if (level.top) break;
        level.columns = level.above;
        level.rows = level.chunks * K;
        level.unit = K;
        level.sample_step = K * level.rows;
        level.chunks = chunks_of(level.rows, K, K);
        level.state = nullptr;
    }
    StretchArgument noted = stretch;
    noted.r = level.above;
    launch(kName, note_stretching, Grid{static_cast<unsigned>(samples), 1, 1}, kFrameThreads,
           static_cast<std::size_t>(stretch_bytes(K)), noted);
    for (auto each = levels.rbegin(); each != levels.rend(); ++each) launch_level(form_chunks, *each, samples);
}

}  // namespace tqs::cuda
