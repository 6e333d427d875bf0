// convolution: x [B, C, spatial 1 or 2], weight [O, C / groups, taps...], bias [O] or absent -> [B, O, spatial'], laid
// out channels-last. Tangent: that of a product (weight_products.h).
//
// A product whose rows are windows of x. With the channels of a position adjacent, K runs over (tap along the width,
// tap along the height, channel), and the window of output w is a piece of a *line*:
//
//     line of output row h   [padded width][tap along the height][channel of the group], 0 where padding
//
// Lines are laid out for a few rows of output at a time; the windows overlap in them, so that nothing is repeated along
// the width (a full im2col would hold every element once per tap). With dilation d, position p is in place
// (p % d) * ceil(width / d) + p / d, which makes the taps of a window adjacent again; outputs then come in phases that
// share p % d. In one dimension, channels-last x without padding, dilation and groups already is a line.
#include <algorithm>
#include <numeric>
#include <vector>

#include "program/ops/weight_products.h"
#include "program/registry.h"

namespace tqs::ops {
namespace {

// Lines laid out at a time: a part of the L2 cache.
constexpr std::int64_t kLineBytes = 128 * 1024;

// A convolution along one axis has height 1.
struct Axis {
    std::int64_t length, taps, stride, padding, dilation, outputs;
};

struct Geometry {
    std::int64_t batch, channels, outputs, groups;  // channels and outputs of all groups together
    Axis height, width;
    Precision precision;

    std::int64_t group_channels() const { return channels / groups; }
    std::int64_t group_outputs() const { return outputs / groups; }
    std::int64_t depth() const { return height.taps * group_channels(); }
    std::int64_t k() const { return width.taps * depth(); }
    std::int64_t phase_places() const {
        return (width.length + 2 * width.padding + width.dilation - 1) / width.dilation;
    }
    std::int64_t line_elements() const { return width.dilation * phase_places() * depth(); }
};

class Convolution : public Op {
  public:
    explicit Convolution(const Geometry& geometry) : g_(geometry), item_(precision_bytes(geometry.precision)) {}

    ProductShape product() const override { return {g_.outputs, g_.k()}; }
    int packed_input() const override { return 1; }

    std::int64_t packed_bytes(const ProgramKernels& kernels) const override {
        return g_.groups * group_bytes(products(kernels));
    }

    void pack(const ProgramKernels& kernels, const void* constant, void* panels) const override {
        if (g_.precision == Precision::float32) {
            pack_as<float>(products(kernels), static_cast<const float*>(constant), static_cast<char*>(panels));
        } else {
            pack_as<double>(products(kernels), static_cast<const double*>(constant), static_cast<char*>(panels));
        }
    }

    std::int64_t scratch_bytes(const Frame& frame) const override {
        if (frame.device) return frame.device->layer_scratch(layer(frame));
        return lines_at_once(frame.extent.lanes * rows_per_lane(frame)) * g_.line_elements() * item_;
    }

    void run(const Frame& frame) const override {
        if (frame.device) return frame.device->layer(layer(frame));
        for_each_product(frame, frame.in[0], frame.in[2], g_.outputs, [&](const LaneProduct& product) {
            if (is_line(frame.in[0])) {
                multiply_in_place(frame, product);
            } else if (g_.precision == Precision::float32) {
                multiply_lines<float>(frame, product);
            } else {
                multiply_lines<double>(frame, product);
            }
        });
    }

  private:
    static WindowAxis window(const Axis& axis, std::int64_t stride) {
        return {axis.outputs, axis.length, axis.taps, axis.stride, axis.dilation, axis.padding, stride};
    }

    LayerTask layer(const Frame& frame) const {
        const Operand& x = frame.in[0];
        return {.extent = frame.extent,
                .precision = g_.precision,
                .x = x,
                .bias = frame.in[2],
                .out = frame.out[0],
                .weight = frame.panels.shared,
                .weights = frame.panels.lanes,
                .batch = g_.batch,
                .x_batch = x.strides[0],
                .height = window(g_.height, x.rank == 4 ? x.strides[2] : 0),
                .width = window(g_.width, x.strides[x.rank - 1]),
                .channels = g_.channels,
                .x_channel = x.strides[1],
                .outputs = g_.outputs,
                .groups = g_.groups,
                .scratch = frame.scratch};
    }

    const ProductKernels& products(const ProgramKernels& kernels) const {
        return kernels.products[static_cast<int>(g_.precision)];
    }

    std::int64_t group_bytes(const ProductKernels& kernels) const {
        return (kernels.packed_elements(g_.group_outputs(), g_.k()) * item_ + 63) / 64 * 64;
    }

    std::int64_t rows_per_lane(const Frame& frame) const { return frame.extent.samples * g_.batch * g_.height.outputs; }

    std::int64_t lines_at_once(std::int64_t rows) const {
        return std::clamp<std::int64_t>(kLineBytes / (g_.line_elements() * item_), 1, rows);
    }

    // The constant has k in the order (channel, height, width).
    template <class T>
    void pack_as(const ProductKernels& kernels, const T* weight, char* panels) const {
        const std::int64_t channels = g_.group_channels(), k = g_.k();
        std::vector<T> rows(static_cast<std::size_t>(g_.group_outputs() * k));
        for (std::int64_t group = 0; group < g_.groups; ++group) {
            T* to = rows.data();
            for (std::int64_t n = 0; n < g_.group_outputs(); ++n) {
                const T* from = weight + (group * g_.group_outputs() + n) * k;
                for (std::int64_t j = 0; j < g_.width.taps; ++j) {
                    for (std::int64_t i = 0; i < g_.height.taps; ++i) {
                        for (std::int64_t c = 0; c < channels; ++c) {
                            *to++ = from[(c * g_.height.taps + i) * g_.width.taps + j];
                        }
                    }
                }
            }
            kernels.pack(rows.data(), g_.group_outputs(), k, k, 1, panels + group * group_bytes(kernels));
        }
    }

    bool is_line(const Operand& x) const {
        const Axis &h = g_.height, &w = g_.width;
        if (x.lanes || h.padding > 0 || w.padding > 0 || h.taps > 1) return false;
        if (g_.channels > 1 && x.strides[1] != 1) return false;
        if (w.taps == 1) return true;
        return g_.groups == 1 && w.dilation == 1 && x.strides[x.rank - 1] == g_.channels;
    }

    GemmTask group_task(const Frame& frame, const LaneProduct& product, std::int64_t group) const {
        const std::int64_t first = group * g_.group_outputs() * item_;
        GemmTask task{};
        task.panels = static_cast<const char*>(product.panels) + group * group_bytes(products(*frame.kernels));
        task.n = g_.group_outputs();
        task.k = g_.k();
        task.bias = product.bias ? static_cast<const char*>(product.bias) + first : nullptr;
        task.y = lane_bytes(frame.out[0], product.y_lane) + first;
        task.accumulate = product.accumulate;
        return task;
    }

    void multiply_in_place(const Frame& frame, const LaneProduct& product) const {
        const Operand &x = frame.in[0], &y = frame.out[0];
        const std::int64_t row = g_.width.outputs * g_.outputs, image = g_.height.outputs * row;
        const std::int64_t height_stride = x.rank == 4 ? x.strides[2] : 0;
        const RowAxis axes[] = {{product.lanes, x.lane_stride, y.lane_stride},
                                {frame.extent.samples, x.sample_stride, y.sample_stride},
                                {g_.batch, x.strides[0], image},
                                {g_.height.outputs, g_.height.stride * height_stride, row},
                                {g_.width.outputs, g_.width.stride * x.strides[x.rank - 1], g_.outputs}};
        for (std::int64_t group = 0; group < g_.groups; ++group) {
            GemmTask task = group_task(frame, product, group);
            task.a = lane_bytes(x, product.x_lane) + group * g_.group_channels() * x.strides[1] * item_;
            multiply_rows(products(*frame.kernels), g_.precision, axes, task);
        }
    }

    template <class T>
    void multiply_lines(const Frame& frame, const LaneProduct& product) const {
        const Operand& x = frame.in[0];
        const std::int64_t total = product.lanes * rows_per_lane(frame), most = lines_at_once(total);
        const std::int64_t row = g_.width.outputs * g_.outputs;
        const std::int64_t common = std::gcd(g_.width.stride, g_.width.dilation);
        const std::int64_t phases = g_.width.dilation / common;
        for (std::int64_t first = 0; first < total; first += most) {
            const std::int64_t rows = std::min(most, total - first);
            for (std::int64_t group = 0; group < g_.groups; ++group) {
                for (std::int64_t r = 0; r < rows; ++r) {
                    const std::int64_t h = (first + r) % g_.height.outputs, image = (first + r) / g_.height.outputs;
                    const std::int64_t sample = image / g_.batch % frame.extent.samples;
                    const std::int64_t lane = product.x_lane + image / g_.batch / frame.extent.samples;
                    const T* from = lane_data<const T>(x, lane, frame.extent.tangent);
                    if (from) from += sample * x.sample_stride + image % g_.batch * x.strides[0];
                    lay_out(x, from, group, h, static_cast<T*>(frame.scratch) + r * g_.line_elements());
                }
                for (std::int64_t phase = 0; phase < std::min(phases, g_.width.outputs); ++phase) {
                    GemmTask task = group_task(frame, product, group);
                    const std::int64_t position = phase * g_.width.stride;
                    const std::int64_t place =
                        position % g_.width.dilation * g_.phase_places() + position / g_.width.dilation;
                    task.a = static_cast<const T*>(frame.scratch) + place * g_.depth();
                    task.y = static_cast<T*>(task.y) + first * row + phase * g_.outputs;
                    const RowAxis axes[] = {{rows, g_.line_elements(), row},
                                            {(g_.width.outputs - phase + phases - 1) / phases,
                                             g_.width.stride / common * g_.depth(), phases * g_.outputs}};
                    multiply_rows(products(*frame.kernels), g_.precision, axes, task);
                }
            }
        }
    }

    // The line of output row h; `from` null: all 0.
    template <class T>
    void lay_out(const Operand& x, const T* from, std::int64_t group, std::int64_t h, T* line) const {
        const Axis& w = g_.width;
        std::fill_n(line, g_.line_elements(), T(0));
        const std::int64_t channels = g_.group_channels(), depth = g_.depth();
        const std::int64_t channel = x.strides[1], position = x.strides[x.rank - 1];
        for (std::int64_t i = 0; i < g_.height.taps && from; ++i) {
            const std::int64_t row = h * g_.height.stride + i * g_.height.dilation - g_.height.padding;
            if (row < 0 || row >= g_.height.length) continue;
            const T* source = from + group * channels * channel + (x.rank == 4 ? row * x.strides[2] : 0);
            for (std::int64_t phase = 0; phase < w.dilation; ++phase) {
                // Positions p = phase, phase + dilation, ... of the padded width; the first with p >= padding.
                const std::int64_t first = std::max<std::int64_t>(0, (w.padding - phase + w.dilation - 1) / w.dilation);
                T* to = line + (phase * g_.phase_places() + first) * depth + i * channels;
                const std::int64_t begin = phase + first * w.dilation - w.padding;
                for (std::int64_t c = 0; c < channels; ++c) {
                    T* out = to + c;
                    for (std::int64_t p = begin; p < w.length; p += w.dilation, out += depth) {
                        *out = source[c * channel + p * position];
                    }
                }
            }
        }
    }

    Geometry g_;
    std::int64_t item_;
};

class Depthwise : public Op {
  public:
    Depthwise(std::int64_t multiplier, const Axis& axis) : multiplier_(multiplier), axis_(axis) {}

    std::int64_t scratch_bytes(const Frame& frame) const override {
        return products(frame).depthwise_scratch(task_of(frame));
    }

    void run(const Frame& frame) const override { products(frame).depthwise(task_of(frame)); }

  private:
    static const ProductKernels& products(const Frame& frame) {
        return frame.kernels->products[static_cast<int>(frame.out[0].precision)];
    }

    DepthwiseTask task_of(const Frame& frame) const {
        return {frame.extent, frame.in[0],  frame.in[1],   frame.in[2],    frame.out[0],
                multiplier_,  axis_.stride, axis_.padding, axis_.dilation, frame.scratch};
    }

    std::int64_t multiplier_;
    Axis axis_;
};

}  // namespace

std::unique_ptr<Op> make_convolution(const OpContext& context) {
    const auto& inputs = context.inputs;
    context.require(inputs.size() == 3 && inputs[0] && inputs[1] && context.outputs.size() == 1,
                    "expected inputs x, weight, bias (or -1) and one output");
    const ValueSpec &x = *inputs[0], &weight = *inputs[1], &out = *context.outputs[0];
    const std::size_t spatial = x.sizes.size() - 2;
    context.require(
        x.sizes.size() >= 3 && spatial <= 2 && weight.sizes.size() == spatial + 2 && out.sizes.size() == spatial + 2,
        "expected x [B, C, spatial] with one or two spatial axes; use engine=\"torch\"");
    const auto stride = context.integers("stride"), padding = context.integers("padding"),
               dilation = context.integers("dilation");
    context.require(stride.size() == spatial && padding.size() == spatial && dilation.size() == spatial,
                    "expected a stride, padding and dilation per spatial axis");
    const auto axis = [&](std::size_t i) {
        Axis result{x.sizes[i + 2], weight.sizes[i + 2], stride[i], padding[i], dilation[i], out.sizes[i + 2]};
        context.require(result.stride >= 1 && result.padding >= 0 && result.dilation >= 1,
                        "expected positive strides and dilations and no negative padding");
        const std::int64_t reach = (result.taps - 1) * result.dilation + 1;
        context.require(result.length + 2 * result.padding >= reach &&
                            (result.length + 2 * result.padding - reach) / result.stride + 1 == result.outputs,
                        "expected an output as long as the windows that fit");
        return result;
    };
    const std::int64_t groups = context.integer("groups", 1);
    const Geometry geometry{x.sizes[0],
                            x.sizes[1],
                            weight.sizes[0],
                            groups,
                            spatial == 2 ? axis(0) : Axis{1, 1, 1, 0, 1, 1},
                            axis(spatial - 1),
                            context.output_precisions[0]};
    context.require(groups >= 1 && x.sizes[1] % groups == 0 && weight.sizes[0] % groups == 0 &&
                        weight.sizes[1] == x.sizes[1] / groups,
                    "expected weight [O, C / groups, taps...]");
    context.require(is_contiguous(weight), "expected a contiguous weight");
    // [B, O, spatial'] in the memory of [B, spatial', O].
    ValueSpec last{out.buffer, out.offset, out.step, {}, {}};
    for (std::size_t i = 0; i < out.sizes.size(); ++i) {
        const std::size_t source = i == 0 ? 0 : i + 1 < out.sizes.size() ? i + 1 : 1;
        last.sizes.push_back(out.sizes[source]);
        last.strides.push_back(out.strides[source]);
    }
    context.require(out.sizes[0] == x.sizes[0] && out.sizes[1] == weight.sizes[0] && is_contiguous(last),
                    "expected an output [B, O, spatial'] laid out channels-last");
    context.require(!inputs[2] || (inputs[2]->sizes == std::vector{weight.sizes[0]} && is_contiguous(*inputs[2])),
                    "expected a contiguous bias [O]");
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        context.require(!inputs[i] || context.input_precisions[i] == context.output_precisions[0],
                        "expected x, weight, bias and output of one precision");
    }
    if (spatial == 1 && groups > 1 && groups == x.sizes[1]) {
        return std::make_unique<Depthwise>(weight.sizes[0] / groups, geometry.width);
    }
    return std::make_unique<Convolution>(geometry);
}

}  // namespace tqs::ops
