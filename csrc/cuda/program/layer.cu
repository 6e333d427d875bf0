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
    auto a = layer_argument<LayerArgument>(task);
    a.samples = task.extent.samples;
    a.rows = rows_of(task);
    a.channels = task.channels / task.groups;
    a.x_channel = task.x_channel;
    a.outputs = task.outputs / task.groups;
    a.groups = task.groups;
    a.height = task.height;
    a.width = task.width;
    a.k = a.channels * task.height.taps * task.width.taps;
    with_tiling<Computed<Stored>>(
        multiprocessors, task.extent.lanes * a.samples * a.rows, a.outputs, task.groups, [&](auto tile) {
            using Tile = decltype(tile);
            const std::int64_t blocks = add_runs(task, a.samples * a.rows, Tile::kEdge, a);
            a.column_blocks = (a.outputs + Tile::kEdge - 1) / Tile::kEdge;
            const std::int64_t across = a.column_blocks * a.groups;
            launch("layer", layer<Stored, Tile::kEach, linear>,
                   Grid{static_cast<unsigned>(blocks), grid_lanes(across), grid_rests(across)}, kProductThreads,
                   shared_bytes(Tile::kSharedBytes), a);
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
