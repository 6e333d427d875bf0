#include "cpu/avx512/kernels.h"

namespace tqs::avx512 {

constinit const ProductKernels kProducts[kPrecisions] = {};

}  // namespace tqs::avx512
