#include "cpu/avx2/kernels.h"

namespace tqs::avx2 {

constinit const RowKernels kRows[kPrecisions] = {};

}  // namespace tqs::avx2
