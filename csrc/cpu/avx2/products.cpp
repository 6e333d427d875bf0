#include "cpu/avx2/kernels.h"

namespace tqs::avx2 {

constinit const ProductKernels kProducts[kPrecisions] = {};

}  // namespace tqs::avx2
