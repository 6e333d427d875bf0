// LayerTask on the GPU: by plain multiply-adds (layer.cu), or on the tensor cores (layer_tensor.cu).
#pragma once

#include "backend/device.h"
#include "cuda/plan.h"

namespace tqs::cuda {

// `device`: tiles are small where large ones would leave some of its multiprocessors without work.
void multiply_layer(const LayerTask& task, const Device& device);

// Whether this is a linear layer of 16-bit operands whose rows of x and of weights begin at multiples of 16 bytes and
// have adjacent, a multiple of 8, elements.
bool fits_layer_tensor(const LayerTask& task);
void multiply_layer_tensor(const LayerTask& task, const Device& device);

}  // namespace tqs::cuda
