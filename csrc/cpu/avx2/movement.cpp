#include "cpu/avx2/kernels.h"

namespace tqs::avx2 {

constinit const MovementKernels kMovement[kPrecisions] = {};

}  // namespace tqs::avx2
