// Orthonormalisation of frames on the device (stretching.cu): StretchTask of backend/device.h.
#pragma once

#include "backend/device.h"

namespace tqs::cuda {

std::int64_t stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size);
void stretch_frames(const StretchTask& task);

}  // namespace tqs::cuda
