#include <cstring>

#include "core/half.h"
#include "cpu/scalar/kernels.h"

namespace tqs::scalar {
namespace {

// x and y may sit at any address, so elements are copied in and out rather than dereferenced.
template <class Element>
Element load(const void* data, std::int64_t index) {
    Element value;
    std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<std::int64_t>(sizeof value), sizeof value);
    return value;
}

template <class Element>
void store(void* data, std::int64_t index, Element value) {
    std::memcpy(static_cast<char*>(data) + index * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
}

template <DType dtype, int bits>
void qgemm(const QgemmTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
    PackedView weight = task.weight;
    if (task.panels) weight.codes = task.panels;
    for (std::int64_t n = begin; n < end; ++n) {
        kDequantize[format_index(bits)](weight, n, n + 1, scratch, weight.columns);
        for (std::int64_t m = 0; m < task.rows; ++m) {
            float sum = 0.0f;
            for (std::int64_t k = 0; k < weight.columns; ++k) {
                const std::int64_t index = m * task.x_stride + k;
                if constexpr (dtype == DType::float32) {
                    sum += load<float>(task.x, index) * scratch[k];
                } else {
                    sum += bfloat16_to_float(load<std::uint16_t>(task.x, index)) * scratch[k];
                }
            }
            if (task.bias) sum += task.bias[n];
            if constexpr (dtype == DType::float32) {
                store(task.y, m * task.y_stride + n, sum);
            } else {
                store(task.y, m * task.y_stride + n, float_to_bfloat16(sum));
            }
        }
    }
}

}  // namespace

std::int64_t scratch_floats(std::int64_t columns) {
    return columns;
}

constinit const QgemmKernel kQgemm[kDTypes][kFormats] = {
    {qgemm<DType::float32, 2>, qgemm<DType::float32, 3>, qgemm<DType::float32, 4>, qgemm<DType::float32, 8>},
    {qgemm<DType::bfloat16, 2>, qgemm<DType::bfloat16, 3>, qgemm<DType::bfloat16, 4>, qgemm<DType::bfloat16, 8>},
};

}  // namespace tqs::scalar
