#include "cpu/avx512/kernels.h"

namespace tqs::avx512 {

constinit const AttentionKernels kAttention[kPrecisions] = {};

}  // namespace tqs::avx512
