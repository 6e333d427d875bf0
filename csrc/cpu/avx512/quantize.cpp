#include "cpu/panel/quantize.h"

#include "cpu/avx512/kernels.h"
#include "cpu/avx512/wide.h"

namespace tqs::avx512 {
namespace {

struct Groups : Wide<double> {
    using Singles = float __attribute__((vector_size(32)));
    using Words = std::uint32_t __attribute__((vector_size(32)));
    using Integers = std::int32_t __attribute__((vector_size(32)));
    using Bytes = std::uint8_t __attribute__((vector_size(8)));
};

}  // namespace

constinit const QuantizeKernel kQuantize[kFormats] = {
    panel::quantize<Groups, 2>,
    panel::quantize<Groups, 3>,
    panel::quantize<Groups, 4>,
    panel::quantize<Groups, 8>,
};

}  // namespace tqs::avx512
