#include "cpu/avx512/kernels.h"

namespace tqs::avx512 {

constinit const RowKernels kRows[kPrecisions] = {};

}  // namespace tqs::avx512
