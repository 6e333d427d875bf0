#include "cpu/scalar/kernels.h"

namespace tqs::scalar {

constinit const RowKernels kRows[kPrecisions] = {};

}  // namespace tqs::scalar
