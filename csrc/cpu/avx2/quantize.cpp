#include "cpu/panel/quantize.h"

#include "cpu/avx2/kernels.h"
#include "cpu/avx2/wide.h"

namespace tqs::avx2 {
namespace {

struct Groups : Wide<double> {
    using Singles = float __attribute__((vector_size(16)));
    using Words = std::uint32_t __attribute__((vector_size(16)));
    using Integers = std::int32_t __attribute__((vector_size(16)));
    using Bytes = std::uint8_t __attribute__((vector_size(4)));
};

}  // namespace

constinit const QuantizeKernel kQuantize[kFormats] = {
    panel::quantize<Groups, 2>,
    panel::quantize<Groups, 3>,
    panel::quantize<Groups, 4>,
    panel::quantize<Groups, 8>,
};

}  // namespace tqs::avx2
