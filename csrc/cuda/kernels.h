// The kernels of this folder, as host functions that launch them.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/kernel_table.h"

namespace tqs::cuda {

// Enqueues on `stream` of the current device; returns the status of the launch.
using QgemmLaunch = cudaError_t (*)(const QgemmTask& task, cudaStream_t stream);

extern const QgemmLaunch kQgemm[kDTypes][kFormats];

}  // namespace tqs::cuda
