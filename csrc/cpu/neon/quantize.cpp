#include "cpu/panel/quantize.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"

namespace tqs::neon {
namespace {

struct Groups : Wide<double> {
    using Singles = float __attribute__((vector_size(8)));
    using Words = std::uint32_t __attribute__((vector_size(8)));
    static Vector widen(const float* at) { return Vector(vcvt_f64_f32(vld1_f32(at))); }
    static void store_bytes(std::uint8_t* at, Vector integers) {
        for (int lane = 0; lane < kLanes; ++lane) at[lane] = static_cast<std::uint8_t>(integers[lane]);
    }
};

}  // namespace

constinit const QuantizeKernel kQuantize[kFormats] = {
    panel::quantize<Groups, 2>,
    panel::quantize<Groups, 3>,
    panel::quantize<Groups, 4>,
    panel::quantize<Groups, 8>,
};

}  // namespace tqs::neon
