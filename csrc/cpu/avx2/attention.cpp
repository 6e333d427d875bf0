#include "cpu/avx2/kernels.h"

namespace tqs::avx2 {

constinit const AttentionKernels kAttention[kPrecisions] = {};

}  // namespace tqs::avx2
