#include "cpu/scalar/kernels.h"

namespace tqs::scalar {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {};

}  // namespace tqs::scalar
