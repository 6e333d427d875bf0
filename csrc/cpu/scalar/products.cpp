#include "cpu/scalar/kernels.h"

namespace tqs::scalar {

constinit const ProductKernels kProducts[kPrecisions] = {};

}  // namespace tqs::scalar
