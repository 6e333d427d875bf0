#include "cpu/avx2/kernels.h"

namespace tqs::avx2 {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {};

}  // namespace tqs::avx2
