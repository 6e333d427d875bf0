#include "rollout/collect.h"

#include <cstring>
#include <limits>

#include "core/check.h"

namespace tqs {
namespace {

// Where lane, sample, value of the output begins; null for a tangent that is zero.
const char* output_at(const Operand& output, const OutputShape& shape, std::int64_t lane, std::int64_t sample,
                      std::int64_t value, bool tangent) {
    const char* base = output.precision == Precision::float32
                           ? reinterpret_cast<const char*>(lane_data<const float>(output, lane, tangent))
                           : reinterpret_cast<const char*>(lane_data<const double>(output, lane, tangent));
    if (!base) return nullptr;
    return base + (sample * output.sample_stride + value * shape.block_stride) * precision_bytes(output.precision);
}

// The channels [C] at `from`, zeros where that is null.
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

double squared_error(const Operand& output, const OutputShape& shape, const char* y, const char* reference,
                     const double* scale) {
    if (output.precision == Precision::float32) {
        return squared_error_of(shape, reinterpret_cast<const float*>(y), reinterpret_cast<const float*>(reference),
                                scale);
    }
    return squared_error_of(shape, reinterpret_cast<const double*>(y), reinterpret_cast<const double*>(reference),
                            scale);
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

Collector::Collector(const Program& program, Place& place, const Extent& extent, std::int64_t values,
                     std::vector<Wanted> wanted)
    : place_(place),
      extent_(extent),
      shape_(output_shape(program)),
      item_(precision_bytes(program.buffer_of(program.spec().output).precision)),
      values_(values),
      wanted_(std::move(wanted)) {
    for (std::size_t i = 0; place.device() && i < wanted_.size(); ++i) this->place(wanted_[i]);
}

char* Collector::take(std::int64_t bytes) {
    memory_.push_back(place_.allocate(bytes));
    allocated_ += bytes;
    return memory_.back().get();
}

void Collector::place(const Wanted& wanted) {
    const std::int64_t rows = values_ * extent_.samples, row = shape_.channels * item_;
    Placed placed{};
    if (wanted.reference) {
        placed.reference = take(rows * row);
        place_.write(placed.reference, extent_.samples * row, wanted.reference, wanted.row * row, extent_.samples * row,
                     values_);
    }
    if (wanted.errors) {
        const std::int64_t bytes = shape_.channels * std::int64_t{sizeof(double)};
        placed.scale = take(bytes);
        place_.write(placed.scale, 0, wanted.scale, 0, bytes, 1);
        placed.errors = take(wanted.lanes * rows * std::int64_t{sizeof(double)});
    }
    if (wanted.outputs) placed.outputs = take(wanted.lanes * rows * row);
    const bool by_time = wanted.output_lane < wanted.output_row;
    placed.out_lane = by_time ? extent_.samples : rows;
    placed.out_time = by_time ? wanted.lanes * extent_.samples : extent_.samples;
    placed_.push_back(placed);
}

void Collector::collect(const Operand& output, const Moment& moment) {
    for (std::size_t i = 0; i < wanted_.size(); ++i) {
        const Wanted& wanted = wanted_[i];
        if (!place_.device()) {
            collect_here(wanted, output, moment.step);
            continue;
        }
        const Placed& placed = placed_[i];
        place_.device()->collect({.output = output,
                                  .tangent = extent_.tangent,
                                  .first = wanted.first,
                                  .lanes = wanted.lanes,
                                  .samples = extent_.samples,
                                  .block = shape_.block,
                                  .channels = shape_.channels,
                                  .block_stride = shape_.block_stride,
                                  .channel_stride = shape_.channel_stride,
                                  .values = values_,
                                  .reference = placed.reference,
                                  .scale = reinterpret_cast<const double*>(placed.scale),
                                  .errors = reinterpret_cast<double*>(placed.errors),
                                  .outputs = placed.outputs,
                                  .out_lane = placed.out_lane * shape_.channels,
                                  .out_time = placed.out_time * shape_.channels,
                                  .clock = moment.clock,
                                  .began = moment.began});
    }
}

void Collector::collect_here(const Wanted& wanted, const Operand& output, std::int64_t step) const {
    const std::int64_t row = shape_.channels * item_;
    for (std::int64_t l = 0; l < wanted.lanes; ++l) {
        for (std::int64_t value = 0; value < shape_.block && step * shape_.block + value < values_; ++value) {
            const std::int64_t time = step * shape_.block + value;
            for (std::int64_t n = 0; n < extent_.samples; ++n) {
                const char* y = output_at(output, shape_, wanted.first + l, n, value, extent_.tangent);
                const std::int64_t at = time * wanted.row + n;
                if (wanted.errors) {
                    const char* reference =
                        wanted.reference ? static_cast<const char*>(wanted.reference) + at * row : nullptr;
                    wanted.errors[l * wanted.error_lane + at] =
                        y ? squared_error(output, shape_, y, reference, wanted.scale) : 0.0;
                }
                if (wanted.outputs) {
                    copy_channels(output, shape_, y,
                                  static_cast<char*>(wanted.outputs) +
                                      (l * wanted.output_lane + time * wanted.output_row + n) * row);
                }
            }
        }
    }
}

// In as few copies as there can be: each takes as long as many kernels.
void Collector::finish() {
    constexpr auto kError = std::int64_t{sizeof(double)};
    const std::int64_t N = extent_.samples, row = shape_.channels * item_;
    const auto read = [&](void* to, std::int64_t to_pitch, const char* from, std::int64_t from_pitch,
                          std::int64_t width, std::int64_t rows, std::int64_t item) {
        place_.read(to, to_pitch * item, from, from_pitch * item, width * item, rows);
    };
    for (std::size_t i = 0; i < placed_.size(); ++i) {
        const Wanted& wanted = wanted_[i];
        const Placed& placed = placed_[i];
        auto* const outputs = static_cast<char*>(wanted.outputs);
        // Lanes that follow one another there, too, are read as one.
        const std::int64_t errors_each = wanted.error_lane == values_ * wanted.row ? wanted.lanes : 1;
        for (std::int64_t l = 0; wanted.errors && l < wanted.lanes; l += errors_each) {
            read(wanted.errors + l * wanted.error_lane, wanted.row, placed.errors + l * values_ * N * kError, N, N,
                 errors_each * values_, kError);
        }
        if (!outputs) continue;
        if (wanted.output_lane == N && placed.out_lane == N) {
            read(outputs, wanted.output_row, placed.outputs, placed.out_time, wanted.lanes * N, values_, row);
            continue;
        }
        const std::int64_t outputs_each = wanted.output_lane == values_ * wanted.output_row ? wanted.lanes : 1;
        for (std::int64_t l = 0; l < wanted.lanes; l += outputs_each) {
            read(outputs + l * wanted.output_lane * row, wanted.output_row, placed.outputs + l * placed.out_lane * row,
                 placed.out_time, N, outputs_each * values_, row);
        }
    }
}

}  // namespace tqs
