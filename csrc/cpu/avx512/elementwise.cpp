#include "cpu/avx512/kernels.h"

namespace tqs::avx512 {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {};

}  // namespace tqs::avx512
