#include "rollout/collect.h"

#include <cstring>
#include <limits>

#include "core/check.h"

namespace tqs {
namespace {

template <class T>
double squared_error_of(const OutputShape& shape, const T* y, const T* reference, const double* scale) {
    double sum = 0;
    for (std::int64_t c = 0; c < shape.channels; ++c) {
        const double error =
            (static_cast<double>(y[c * shape.channel_stride]) - (reference ? static_cast<double>(reference[c]) : 0.0)) /
            scale[c];
        sum += error * error;
    }
    const double mean = sum / static_cast<double>(shape.channels);
    return std::isfinite(mean) ? mean : std::numeric_limits<double>::infinity();
}

}  // namespace

OutputShape output_shape(const Program& program) {
    const ValueSpec& value = program.spec().values[static_cast<std::size_t>(program.spec().output)];
    const std::size_t rank = value.sizes.size();
    require((rank == 2 || rank == 3) && value.sizes[0] == 1, "rollout",
            "expected an output of sizes [1, C] or [1, block, C] per sample");
    if (rank == 2) return {1, value.sizes[1], 0, value.strides[1]};
    return {value.sizes[1], value.sizes[2], value.strides[1], value.strides[2]};
}

const char* output_at(const Operand& output, const OutputShape& shape, std::int64_t lane, std::int64_t sample,
                      std::int64_t value, bool tangent) {
    const char* base = output.precision == Precision::float32
                           ? reinterpret_cast<const char*>(lane_data<const float>(output, lane, tangent))
                           : reinterpret_cast<const char*>(lane_data<const double>(output, lane, tangent));
    if (!base) return nullptr;
    return base + (sample * output.sample_stride + value * shape.block_stride) * precision_bytes(output.precision);
}

void copy_channels(const Operand& output, const OutputShape& shape, const char* from, void* out) {
    const std::int64_t item = precision_bytes(output.precision);
    for (std::int64_t c = 0; c < shape.channels; ++c) {
        char* to = static_cast<char*>(out) + c * item;
        if (from) {
            std::memcpy(to, from + c * shape.channel_stride * item, static_cast<std::size_t>(item));
        } else {
            std::memset(to, 0, static_cast<std::size_t>(item));
        }
    }
}

double squared_error(const Operand& output, const OutputShape& shape, const char* y, const char* reference,
                     const double* scale) {
    if (output.precision == Precision::float32) {
        return squared_error_of(shape, reinterpret_cast<const float*>(y), reinterpret_cast<const float*>(reference),
                                scale);
    }
    return squared_error_of(shape, reinterpret_cast<const double*>(y), reinterpret_cast<const double*>(reference),
                            scale);
}

}  // namespace tqs
