// LayerTask on the GPU (layer.cu).
#pragma once

#include "backend/device.h"

namespace tqs::cuda {

// `multiprocessors` of the device: tiles are small where large ones would leave some of them without work.
void multiply_layer(const LayerTask& task, int multiprocessors);

}  // namespace tqs::cuda
