#include "cpu/scalar/kernels.h"

namespace tqs::scalar {

constinit const AttentionKernels kAttention[kPrecisions] = {};

}  // namespace tqs::scalar
