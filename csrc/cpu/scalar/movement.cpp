#include "cpu/scalar/kernels.h"

namespace tqs::scalar {

constinit const MovementKernels kMovement[kPrecisions] = {};

}  // namespace tqs::scalar
