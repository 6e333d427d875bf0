// How the rows of a LayerTask lie: what the ways of computing one ask first.
#pragma once

#include "backend/device.h"
#include "cuda/program/tensor_operands.h"

namespace tqs::cuda {

// Of a lane and sample.
inline std::int64_t rows_of(const LayerTask& task) {
    return task.batch * task.height.outputs * task.width.outputs;
}

// Whether a row of the product is a piece of x: no windows, and channels that are adjacent.
inline bool is_linear(const LayerTask& task) {
    for (const WindowAxis& axis : {task.height, task.width}) {
        if (axis.taps != 1 || axis.padding != 0) return false;
    }
    return task.channels == task.groups || task.x_channel == 1;
}

// Whether all rows of x and of weights are read in vectors of 16 bytes.
inline bool is_linear_in_vectors(const LayerTask& task) {
    const std::int64_t vector = vector_of(task.precision), lanes = task.extent.lanes;
    if (!is_linear(task) || task.channels / task.groups % vector != 0 || task.x_batch % vector != 0) return false;
    for (const WindowAxis& axis : {task.height, task.width}) {
        if (axis.stride * axis.x_stride % vector != 0) return false;
    }
    return is_aligned(task.x, lanes) && (task.weights ? are_aligned(task.weights, lanes) : is_aligned(task.weight));
}

}  // namespace tqs::cuda
