#include "cpu/panel/dequantize.h"

#include "cpu/avx2/kernels.h"
#include "cpu/avx2/vector.h"

namespace tqs::avx2 {

constinit const DequantizeKernel kDequantize[kFormats] = {
    panel::dequantize<Vector, 2>,
    panel::dequantize<Vector, 3>,
    panel::dequantize<Vector, 4>,
    panel::dequantize<Vector, 8>,
};

}  // namespace tqs::avx2
