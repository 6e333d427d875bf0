#include "core/half.h"
#include "cpu/scalar/kernels.h"
#include "quant/codes.h"

namespace tqs::scalar {
namespace {

template <int bits>
void dequantize(const PackedView& weight, std::int64_t begin, std::int64_t end, float* out, std::int64_t stride) {
    for (std::int64_t n = begin; n < end; ++n) {
        const std::uint8_t* row = weight.codes + n * row_bytes(weight);
        for (std::int64_t k = 0; k < weight.columns; ++k) {
            const std::int64_t group = k / group_width(weight);
            const float scale = bfloat16_to_float(weight.scales[n * group_count(weight) + group]);
            const int q = read_code(row, k, bits) - zero_point(weight, n, group);
            out[(n - begin) * stride + k] = scale * static_cast<float>(q);
        }
    }
}

}  // namespace

constinit const DequantizeKernel kDequantize[kFormats] = {dequantize<2>, dequantize<3>, dequantize<4>, dequantize<8>};

}  // namespace tqs::scalar
