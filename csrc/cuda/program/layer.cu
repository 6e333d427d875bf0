#include "cuda/device/layer.cuh"
#include "cuda/program/launch.cuh"
#include "cuda/program/layer.h"
#include "cuda/program/layer_rows.h"
#include "cuda/program/layer_runs.h"
#include "cuda/program/tilings.h"

namespace tqs::cuda {
namespace {

template <class Stored, bool linear>
void multiply(const LayerTask& task, int multiprocessors) {
    const std::int64_t lanes = task.extent.lanes, rows = rows_of(task);
    LayerArgument a{};
    a.tangent = task.extent.tangent;
    a.x = lanes_of(on_device(task.x, lanes));
    a.biased = task.bias.data != nullptr;
    if (a.biased) a.bias = lanes_of(on_device(task.bias, lanes));
    a.out = lanes_of(task.out);
    a.x_sample = task.x.sample_stride;
    a.out_sample = task.out.sample_stride;
    a.samples = task.extent.samples;
    a.rows = rows;
    a.batch = task.batch;
    a.x_batch = task.x_batch;
    a.channels = task.channels / task.groups;
    a.x_channel = task.x_channel;
    a.outputs = task.outputs / task.groups;
    a.height = task.height;
    a.width = task.width;
    a.k = a.channels * task.height.taps * task.width.taps;
    with_tiling<Computed<Stored>>(multiprocessors, lanes * a.samples * rows, a.outputs, task.groups, [&](auto tile) {
        using Tile = decltype(tile);
        std::int64_t blocks = 0;
        const std::vector<LayerRun> runs = runs_of(task, a.samples * rows, Tile::kEdge, blocks);
        a.runs = context().constant(runs.data(), static_cast<std::int64_t>(runs.size()));
        a.run_count = static_cast<int>(runs.size());
        a.column_blocks = (a.outputs + Tile::kEdge - 1) / Tile::kEdge;
        launch("layer", layer<Stored, Tile::kEach, linear>,
               Grid{static_cast<unsigned>(blocks), static_cast<unsigned>(a.column_blocks * task.groups), 1},
               kProductThreads, shared_bytes(Tile::kSharedBytes), a);
    });
}

template <class Stored>
void multiply(const LayerTask& task, int multiprocessors) {
    if constexpr (!kIsHalf<Stored>) {
        if (is_linear_in_vectors(task)) return multiply<Stored, true>(task, multiprocessors);
    }
    multiply<Stored, false>(task, multiprocessors);
}

}  // namespace

void multiply_layer(const LayerTask& task, const cuda::Device& device) {
    if (fits_layer_tensor(task)) return multiply_layer_tensor(task, device);
    switch (task.precision) {
        case Precision::float32:
            return multiply<float>(task, device.multiprocessors);
        case Precision::float64:
            return multiply<double>(task, device.multiprocessors);
        case Precision::bfloat16:
            return multiply<Bfloat16>(task, device.multiprocessors);
        case Precision::float16:
            return multiply<Float16>(task, device.multiprocessors);
    }
}

}  // namespace tqs::cuda
