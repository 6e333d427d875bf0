// PackedLayerTask on the GPU, by the products of quantized weights (cuda/kernels.h).
#pragma once

#include "backend/device.h"
#include "cuda/plan.h"

namespace tqs::cuda {

std::int64_t packed_layer_scratch(const PackedLayerTask& task, const cuda::Device& device);
void multiply_packed_layer(const PackedLayerTask& task, const cuda::Device& device);

}  // namespace tqs::cuda
