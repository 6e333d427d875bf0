// Variants of weights that are made on the device (noise.cu, rounding.cu): tasks of backend/device.h.
#pragma once

#include "backend/device.h"

namespace tqs::cuda {

void add_noise(const NoiseTask& task);
void round_weights(const RoundTask& task, const ScaleRatios& ratios);

}  // namespace tqs::cuda
