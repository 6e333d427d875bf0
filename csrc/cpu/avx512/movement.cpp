#include "cpu/avx512/kernels.h"

namespace tqs::avx512 {

constinit const MovementKernels kMovement[kPrecisions] = {};

}  // namespace tqs::avx512
