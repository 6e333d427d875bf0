#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "cpu/scalar/kernels.h"
#include "quant/codes.h"

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

template <DType dtype>
float load_x(const QgemmTask& task, std::int64_t m, std::int64_t k) {
    const std::int64_t index = m * task.x_stride + k;
    if constexpr (dtype == DType::float32) return load<float>(task.x, index);
    return bfloat16_to_float(load<std::uint16_t>(task.x, index));
}

// One row of int8 activations: K codes, then at a multiple of four bytes its scale.
std::int64_t quantized_stride(std::int64_t columns) {
    return (columns + 3) / 4 * 4 + 4;
}

template <DType dtype>
void quantize_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    const std::int64_t columns = task.weight.columns, stride = quantized_stride(columns);
    for (std::int64_t m = begin; m < end; ++m) {
        std::uint8_t* codes = out + m * stride;
        float most = 0.0f;
        bool finite = true;
        for (std::int64_t k = 0; k < columns; ++k) {
            const float value = std::fabs(load_x<dtype>(task, m, k));
            finite = finite && value <= std::numeric_limits<float>::max();
            most = std::max(most, value);
        }
        const bool quiet = most < kQuietRow;
        for (std::int64_t k = 0; k < columns; ++k) {
            const float scaled = quiet || !finite ? 0.0f : load_x<dtype>(task, m, k) * (127.0f / most);
            store(codes, k, static_cast<std::int8_t>(std::nearbyint(scaled)));
        }
        const float scale = quiet ? 0.0f : most / 127.0f;
        store(codes + stride - 4, 0, finite ? scale : std::numeric_limits<float>::quiet_NaN());
    }
}

// The sum over one span, of the row's float or integer activations.
template <Activation activation, DType dtype>
float span_sum(const QgemmTask& task, std::int64_t m, std::int64_t n, std::int64_t begin, std::int64_t end, int zero) {
    const PackedView& weight = task.weight;
    const std::uint8_t* codes = task.panels ? task.panels : weight.codes;
    const std::uint8_t* row = codes + n * row_bytes(weight);
    if constexpr (activation == Activation::int8) {
        const std::uint8_t* x = task.activations + m * quantized_stride(weight.columns);
        std::int32_t sum = 0;
        for (std::int64_t k = begin; k < end; ++k) {
            sum += (read_code(row, k, weight.bits) - zero) * load<std::int8_t>(x, k);
        }
        return static_cast<float>(sum);
    } else {
        float sum = 0.0f;
        for (std::int64_t k = begin; k < end; ++k) {
            sum += load_x<dtype>(task, m, k) * static_cast<float>(read_code(row, k, weight.bits) - zero);
        }
        return sum;
    }
}

template <Activation activation, DType dtype>
void qgemm(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t*) {
    const PackedView& weight = task.weight;
    for (std::int64_t m = 0; m < task.rows; ++m) {
        const std::uint8_t* quantized = task.activations + m * quantized_stride(weight.columns);
        for (std::int64_t n = begin; n < end; ++n) {
            float sum = 0.0f;
            for (std::int64_t span = 0; span < span_count(weight); ++span) {
                const std::int64_t group = group_of_span(weight, span), first = span * span_width(weight);
                const float part =
                    span_sum<activation, dtype>(task, m, n, first, std::min(first + span_width(weight), weight.columns),
                                                zero_point(weight, n, group));
                const float scale = bfloat16_to_float(weight.scales[n * group_count(weight) + group]);
                sum = activation == Activation::int8 ? std::fma(scale, part, sum) : sum + scale * part;
            }
            const float bias = task.bias ? task.bias[n] : 0.0f;
            if constexpr (activation == Activation::int8) {
                sum = std::fma(sum, load<float>(quantized + quantized_stride(weight.columns) - 4, 0), bias);
            } else if (task.bias) {
                sum += bias;
            }
            if constexpr (dtype == DType::float32) {
                store(task.y, m * task.y_stride + n, sum);
            } else {
                store(task.y, m * task.y_stride + n, float_to_bfloat16(sum));
            }
        }
    }
}

std::int64_t no_bytes(const QgemmTask&) {
    return 0;
}

std::int64_t int8_bytes(const QgemmTask& task) {
    return task.rows * quantized_stride(task.weight.columns);
}

constexpr QgemmKernel exact_float32 = qgemm<Activation::exact, DType::float32>;
constexpr QgemmKernel exact_bfloat16 = qgemm<Activation::exact, DType::bfloat16>;
constexpr QgemmKernel int8_float32 = qgemm<Activation::int8, DType::float32>;
constexpr QgemmKernel int8_bfloat16 = qgemm<Activation::int8, DType::bfloat16>;

}  // namespace

std::int64_t scratch_bytes(const PackedView&) {
    return 0;
}

constinit const ActivationBytes kActivationBytes[tqs::kActivations] = {no_bytes, nullptr, int8_bytes};

constinit const ActivationKernel kActivations[tqs::kActivations][kDTypes] = {
    {nullptr, nullptr},
    {nullptr, nullptr},
    {quantize_rows<DType::float32>, quantize_rows<DType::bfloat16>},
};

// Any number of bits: it is read from the weight.
constinit const QgemmKernel kQgemm[tqs::kActivations][kDTypes][kFormats] = {
    {{exact_float32, exact_float32, exact_float32, exact_float32},
     {exact_bfloat16, exact_bfloat16, exact_bfloat16, exact_bfloat16}},
    {},
    {{int8_float32, int8_float32, int8_float32, int8_float32},
     {int8_bfloat16, int8_bfloat16, int8_bfloat16, int8_bfloat16}},
};

}  // namespace tqs::scalar
