// packed_linear: x [..., K], bias [N] or absent -> [..., N], with a weight [N, K] in the packed format
// (quant/format.h): number `weight` of ProgramSpec::packed, which has neither variants nor tangents. With `int8` 1
// (default 0) the rows of x are rounded to int8 first (Activation::int8).
// x and the result are float32 or, on devices, both bfloat16 or float16; the bias is float32.
// Tangent: dx W^T + dbias, for int8 too: the derivative of rounding, zero almost everywhere, is taken to be one.
//
// Rows are first rewritten as the product wants them (QgemmTask::activations), wherever they lie in x: there is no
// other copy of x. The product is that of QgemmKernel: an output depends on its row of x and its row of W only. The
// bias of exact activations is one addition at the end, here or there; that of int8 is fused with the scale of the row,
// so that lanes with a bias of their own are a product each.
#include <algorithm>
#include <cstring>

#include "backend/backend.h"
#include "program/ops/weight_products.h"
#include "program/registry.h"

namespace tqs::ops {
namespace {

// Rewritten rows at a time: a part of the L2 cache, but so many that reading the weight again costs little.
constexpr std::int64_t kRewrittenBytes = 256 * 1024;
constexpr std::int64_t kFewestRows = 64;

constexpr int kElement = static_cast<int>(DType::float32);

// Lanes [y_lane, y_lane + lanes) of y from as many of x that begin at x_lane.
struct LaneRun {
    std::int64_t x_lane, y_lane, lanes;
    const float* bias;
    Activation activation;
};

std::int64_t aligned(std::int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// The rows [K] of an operand: of all lanes, samples and positions, in that order.
class Rows {
  public:
    // `memory`: K elements, for a row whose elements are apart or which is zero.
    Rows(const Operand& x, const Extent& extent, float* memory) : x_(x), extent_(extent), memory_(memory) {
        for (int axis = 0; axis + 1 < x.rank; ++axis) each_ *= x.sizes[axis];
        adjacent_ = x.sizes[x.rank - 1] == 1 || x.strides[x.rank - 1] == 1;
        even_ = adjacent_ && !x.lanes;
        const auto join = [&](std::int64_t size, std::int64_t stride) {
            if (size == 1) return;
            even_ = even_ && (count_ == 1 || step_ == size * stride);
            count_ *= size;
            step_ = stride;
        };
        join(is_shared(x) ? 1 : extent.lanes, x.lane_stride);
        join(extent.samples, x.sample_stride);
        for (int axis = 0; axis + 1 < x.rank; ++axis) join(x.sizes[axis], x.strides[axis]);
    }

    std::int64_t each() const { return each_; }  // of one lane and sample
    // Whether row m begins at first() + m * step().
    bool even() const { return even_; }
    std::int64_t step() const { return step_; }
    const float* first() const { return static_cast<const float*>(x_.data); }

    const float* operator[](std::int64_t m) const {
        const std::int64_t lane = m / each_ / extent_.samples, columns = x_.sizes[x_.rank - 1];
        const float* row = lane_data<float>(x_, lane, extent_.tangent);
        if (!row) {
            std::fill_n(memory_, columns, 0.0f);
            return memory_;
        }
        row += m / each_ % extent_.samples * x_.sample_stride;
        std::int64_t place = m % each_;
        for (int axis = x_.rank - 2; axis >= 0; place /= x_.sizes[axis--]) {
            row += place % x_.sizes[axis] * x_.strides[axis];
        }
        if (adjacent_) return row;
        for (std::int64_t k = 0; k < columns; ++k) memory_[k] = row[k * x_.strides[x_.rank - 1]];
        return memory_;
    }

  private:
    const Operand& x_;
    Extent extent_;
    float* memory_;
    std::int64_t each_ = 1, count_ = 1, step_ = 0;
    bool adjacent_, even_;
};

class PackedLinear : public Op {
  public:
    PackedLinear(const PlacedWeight& prepared, const KernelTable& table, int rank, Activation activation)
        : prepared_(prepared), table_(table), rank_(rank), activation_(activation) {
        const std::int64_t row = prepared.weight.columns * precision_bytes(Precision::float32);
        most_ = std::max(kFewestRows, kRewrittenBytes / row);
    }

    ProductShape product() const override { return {prepared_.weight.rows, prepared_.weight.columns}; }
    bool separable(int axis) const override { return axis < rank_ - 1; }
    bool follows(int input) const override { return input == 0; }

    std::int64_t scratch_bytes(const Frame& frame) const override {
        if (frame.device) return frame.device->packed_layer_scratch(layer(frame));
        const Rows x(frame.in[0], frame.extent, nullptr);
        return rewritten_bytes(std::min(most_, frame.extent.lanes * frame.extent.samples * x.each())) +
               prepared_.weight.columns * precision_bytes(Precision::float32);
    }

    void run(const Frame& frame) const override {
        if (frame.device) return frame.device->packed_layer(layer(frame));
        const Operand &x = frame.in[0], &bias = frame.in[1];
        const bool tangent = frame.extent.tangent, alike = !tangent && !bias.lanes;
        const std::int64_t all = frame.extent.lanes, own = is_shared(x) ? 1 : all;
        const auto bias_at = [&](std::int64_t lane) {
            return static_cast<const float*>(bias_of(bias, lane, tangent));
        };
        std::int64_t done = 0;  // lanes that are what they will be
        if (alike) {
            multiply(frame, {0, 0, own, bias_at(0), activation_});
            done = own;
        } else if (activation_ == Activation::int8) {
            done = tangent ? 1 : all;
            for (std::int64_t lane = 0; lane < done; ++lane) {
                multiply(frame, {is_shared(x) ? 0 : lane, lane, 1, bias_at(lane), activation_});
            }
        }
        if (done < own) multiply(frame, {done, done, own - done, nullptr, Activation::exact});
        for (std::int64_t lane = all; lane-- > done;) {  // lane 0, which others are copied from, last
            finish(frame, lane, lane >= own, alike ? nullptr : bias_at(lane));
        }
    }

  private:
    PackedLayerTask layer(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .bias = frame.in[1],
                .out = frame.out[0],
                .weight = &prepared_.weight,
                .panels = prepared_.panels,
                .int8 = activation_ == Activation::int8,
                .scratch = frame.scratch};
    }

    // A lane without its bias; `empty`: without its product too, which is that of lane 0 or, of a tangent, zero.
    static void finish(const Frame& frame, std::int64_t lane, bool empty, const float* bias) {
        const Operand& y = frame.out[0];
        const std::int64_t columns = y.sizes[y.rank - 1];
        std::int64_t rows = 1;
        for (int axis = 0; axis + 1 < y.rank; ++axis) rows *= y.sizes[axis];
        const auto bytes = static_cast<std::size_t>(rows * columns) * sizeof(float);
        for (std::int64_t sample = 0; sample < frame.extent.samples; ++sample) {
            float* out = at(y, lane, sample);
            if (empty && frame.extent.tangent) std::memset(out, 0, bytes);
            if (empty && !frame.extent.tangent) std::memcpy(out, at(y, 0, sample), bytes);
            for (std::int64_t row = 0; row < rows && bias; ++row, out += columns) {
                for (std::int64_t n = 0; n < columns; ++n) out[n] += bias[n];
            }
        }
    }

    static float* at(const Operand& y, std::int64_t lane, std::int64_t sample) {
        return static_cast<float*>(y.data) + lane * y.lane_stride + sample * y.sample_stride;
    }

    // Bytes of so many rewritten rows; what follows them is aligned.
    std::int64_t rewritten_bytes(std::int64_t rows) const {
        QgemmTask task{};
        task.rows = rows;
        task.weight = prepared_.weight;
        const auto bytes = [&](Activation activation) {
            return table_.activation_bytes[static_cast<int>(activation)](task);
        };
        return aligned(std::max(bytes(activation_), bytes(Activation::exact)));  // tangents are exact
    }

    // Rows of y lie together in each lane and sample, and may in all.
    void multiply(const Frame& frame, const LaneRun& lanes) const {
        const Operand& y = frame.out[0];
        const std::int64_t samples = frame.extent.samples, columns = prepared_.weight.rows;
        const std::int64_t each = Rows(frame.in[0], frame.extent, nullptr).each();
        const std::int64_t total = lanes.lanes * samples * each;
        const std::int64_t most = std::min(most_, frame.extent.lanes * samples * each);
        auto* const rewritten = static_cast<std::uint8_t*>(frame.scratch);
        const Rows x(frame.in[0], frame.extent, reinterpret_cast<float*>(rewritten + rewritten_bytes(most)));
        const bool even = (lanes.lanes == 1 || y.lane_stride == samples * y.sample_stride) &&
                          (each == 1 || lanes.lanes * samples == 1 || y.sample_stride == each * columns);
        const std::int64_t run = even ? total : each;
        for (std::int64_t first = 0; first < total; first += run) {
            for (std::int64_t m = first; m < first + run; m += most) {
                QgemmTask task{};
                task.rows = std::min(most, first + run - m);
                task.weight = prepared_.weight;
                task.panels = prepared_.panels;
                task.bias = lanes.bias;
                task.y = at(y, lanes.y_lane + m / each / samples, m / each % samples) + m % each * columns;
                task.y_stride = each == 1 ? y.sample_stride : columns;
                multiply(x, lanes.x_lane * samples * each + m, task, lanes.activation, rewritten);
            }
        }
    }

    // Rows [m, m + task.rows) of x.
    void multiply(const Rows& x, std::int64_t m, QgemmTask task, Activation activation, std::uint8_t* rewritten) const {
        const auto form = static_cast<int>(activation);
        const ActivationKernel rewrite = table_.activations[form][kElement];
        const QgemmKernel kernel = table_.qgemm[form][kElement][format_index(task.weight.bits)];
        const std::int64_t rows = task.rows, columns = task.weight.rows;
        if (rewrite) task.activations = rewritten;
        if (x.even()) {
            task.x = x.first() + m * x.step();
            task.x_stride = x.step();
            if (rewrite) rewrite(task, 0, rows, rewritten);
            return kernel(task, 0, columns, nullptr);
        }
        for (std::int64_t row = 0; row < rows; ++row) {
            task.x = x[m + row];  // a row at a time: a stride of 0 keeps it there
            if (rewrite) {
                rewrite(task, row, row + 1, rewritten);
                continue;
            }
            task.rows = 1;
            kernel(task, 0, columns, nullptr);
            task.y = static_cast<float*>(task.y) + task.y_stride;
        }
        if (rewrite) kernel(task, 0, columns, nullptr);
    }

    const PlacedWeight& prepared_;
    const KernelTable& table_;
    int rank_;
    Activation activation_;
    std::int64_t most_;  // rows rewritten at a time
};

}  // namespace

std::unique_ptr<Op> make_packed_linear(const OpContext& context) {
    const auto& inputs = context.inputs;
    context.require(inputs.size() == 2 && inputs[0] && context.outputs.size() == 1,
                    "expected inputs x, bias (or -1) and one output");
    const std::int64_t number = context.integer("weight");
    context.require(number >= 0 && number < static_cast<std::int64_t>(context.packed.size()),
                    "expected `weight` to name a packed weight of the program");
    const PlacedWeight& prepared = context.packed[static_cast<std::size_t>(number)];
    const ValueSpec& x = *inputs[0];
    const ValueSpec& out = *context.outputs[0];
    context.require(!x.sizes.empty() && x.sizes.back() == prepared.weight.columns, "expected x [..., K]");
    std::vector<std::int64_t> sizes = x.sizes;
    sizes.back() = prepared.weight.rows;
    context.require(out.sizes == sizes && is_contiguous(out), "expected a contiguous output [..., N]");
    context.require(!inputs[1] || (inputs[1]->sizes == std::vector{sizes.back()} && is_contiguous(*inputs[1])),
                    "expected a contiguous bias [N]");
    const bool single = context.output_precisions[0] != Precision::float64 &&
                        context.input_precisions[0] == context.output_precisions[0] &&
                        (!inputs[1] || context.input_precisions[1] == Precision::float32);
    context.require(single,
                    "expected x and output of one precision and a bias of float32; in float64 a weight is dequantized "
                    "first, and the node is a linear");
    const std::int64_t int8 = context.integer("int8", 0);
    context.require(int8 == 0 || int8 == 1, "expected `int8` to be 0 or 1");
    return std::make_unique<PackedLinear>(prepared, active_table(), static_cast<int>(x.sizes.size()),
                                          int8 ? Activation::int8 : Activation::exact);
}

}  // namespace tqs::ops
