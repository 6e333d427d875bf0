// What the model of plan.h wants to know of a device.
#pragma once

#include "cuda/plan.h"

namespace tqs::cuda {

// Asked once per device and process.
Device properties_of(int device);

}  // namespace tqs::cuda
