// linear: x [..., K], weight [N, K] (packed), bias [N] or absent -> [..., N].
// Tangent: dx W^T + x dW^T + dbias (weight_products.h). With `tf32` 1 as LayerTask; only devices know it.
#include <algorithm>

#include "program/ops/weight_products.h"
#include "program/registry.h"

namespace tqs::ops {
namespace {

constexpr std::int64_t kAligned = 256;  // bytes, of what follows a copy in scratch

class Linear : public Op {
  public:
    Linear(std::int64_t n, std::int64_t k, int rank, Precision precision, bool tf32)
        : n_(n), k_(k), rank_(rank), precision_(precision), tf32_(tf32) {}

    ProductShape product() const override { return {n_, k_}; }
    int packed_input() const override { return 1; }
    bool separable(int axis) const override { return axis < rank_ - 1; }
    bool follows(int input) const override { return input == 0; }

    std::int64_t packed_bytes(const ProgramKernels& kernels) const override {
        return kernels.products[static_cast<int>(precision_)].packed_elements(n_, k_) * precision_bytes(precision_);
    }

    void pack(const ProgramKernels& kernels, const void* constant, void* panels) const override {
        kernels.products[static_cast<int>(precision_)].pack(constant, n_, k_, k_, 1, panels);
    }

    std::int64_t scratch_bytes(const Frame& frame) const override {
        const Operand& x = frame.in[0];
        if (frame.device) {
            const std::int64_t copy = copy_on_device(frame);
            return copy + frame.device->layer_scratch(layer(frame, copy > 0 ? in_scratch(frame) : x));
        }
        // A constant may turn out to have variants, which lie anywhere.
        const bool constant = x.sample_stride == 0 && x.lane_stride == 0;
        return adjacent(x) && !constant ? 0 : copy_bytes(frame);
    }

    void run(const Frame& frame) const override {
        if (frame.device) {
            const std::int64_t copy = copy_on_device(frame);
            LayerTask task = layer(frame, copy > 0 ? copied(frame) : frame.in[0]);
            task.scratch = static_cast<char*>(frame.scratch) + copy;
            return frame.device->layer(task);
        }
        Operand x = frame.in[0];
        if (!adjacent(x) || x.lanes) x = copied(frame);
        const Operand& y = frame.out[0];
        for_each_product(frame, x, frame.in[2], n_, [&](const LaneProduct& product) {
            RowAxis axes[kMaxRank + 1];
            std::fill(std::begin(axes), std::end(axes), RowAxis{1, 0, 0});
            axes[0] = {product.lanes, x.lane_stride, y.lane_stride};
            axes[1] = {frame.extent.samples, x.sample_stride, y.sample_stride};
            for (int i = 0; i + 1 < x.rank; ++i) axes[i + 2] = {x.sizes[i], x.strides[i], y.strides[i]};
            GemmTask task{};
            task.a = lane_bytes(x, product.x_lane);
            task.panels = product.panels;
            task.n = n_;
            task.k = k_;
            task.bias = product.bias;
            task.y = lane_bytes(y, product.y_lane);
            task.accumulate = product.accumulate;
            multiply_rows(product_kernels(frame), precision_, axes, task);
        });
    }

  private:
    // The rows of x as those of a layer; false where they lie along more than three axes.
    static bool lay_rows(const Operand& x, LayerTask& task) {
        std::int64_t sizes[3] = {1, 1, 1}, strides[3] = {};
        int used = 0;
        for (int axis = x.rank - 2; axis >= 0; --axis) {
            if (x.sizes[axis] == 1) continue;
            if (used > 0 && x.strides[axis] == sizes[used - 1] * strides[used - 1]) {
                sizes[used - 1] *= x.sizes[axis];
                continue;
            }
            if (used == 3) return false;
            sizes[used] = x.sizes[axis];
            strides[used++] = x.strides[axis];
        }
        task.width = {sizes[0], sizes[0], 1, 1, 1, 0, strides[0]};
        task.height = {sizes[1], sizes[1], 1, 1, 1, 0, strides[1]};
        task.batch = sizes[2];
        task.x_batch = strides[2];
        return true;
    }

    // What a copy of x takes, at the beginning of scratch; 0: none is needed.
    std::int64_t copy_on_device(const Frame& frame) const {
        LayerTask task{};
        return lay_rows(frame.in[0], task) ? 0 : (copy_bytes(frame) + kAligned - 1) / kAligned * kAligned;
    }

    // x: as it lies, or copied.
    LayerTask layer(const Frame& frame, const Operand& x) const {
        LayerTask task{};
        task.extent = frame.extent;
        task.precision = precision_;
        task.x = x;
        lay_rows(x, task);
        task.bias = frame.in[2];
        task.out = frame.out[0];
        task.weight = frame.panels.shared;
        task.weights = frame.panels.lanes;
        task.channels = k_;
        task.x_channel = x.strides[x.rank - 1];
        task.outputs = n_;
        task.groups = 1;
        task.tf32 = tf32_;
        return task;
    }

    bool adjacent(const Operand& x) const { return k_ == 1 || x.strides[x.rank - 1] == 1; }

    static std::int64_t elements(const Operand& x) {
        std::int64_t count = 1;
        for (int i = 0; i < x.rank; ++i) count *= x.sizes[i];
        return count;
    }

    static std::int64_t samples(const Operand& x, const Extent& extent) {
        return x.sample_stride == 0 ? 1 : extent.samples;
    }

    // Bytes of `in_scratch`.
    std::int64_t copy_bytes(const Frame& frame) const {
        const Operand& x = frame.in[0];
        return frame.extent.lanes * samples(x, frame.extent) * elements(x) * precision_bytes(precision_);
    }

    // Where a copy of x lies, contiguous.
    static Operand in_scratch(const Frame& frame) {
        const Operand& x = frame.in[0];
        Operand copy = x;
        copy.data = frame.scratch;
        copy.lanes = nullptr;
        std::int64_t stride = 1;
        for (int i = x.rank - 1; i >= 0; --i) {
            copy.strides[i] = stride;
            stride *= x.sizes[i];
        }
        copy.sample_stride = x.sample_stride == 0 ? 0 : stride;
        copy.lane_stride = is_shared(x) ? 0 : stride * samples(x, frame.extent);
        return copy;
    }

    Operand copied(const Frame& frame) const {
        const Operand& x = frame.in[0];
        const Extent extent{is_shared(x) ? 1 : frame.extent.lanes, samples(x, frame.extent),
                            frame.extent.tangent && !is_shared(x)};
        const Operand copy = in_scratch(frame);
        frame.kernels->movement[static_cast<int>(precision_)].copy({extent, x, copy});
        return copy;
    }

    std::int64_t n_, k_;
    int rank_;
    Precision precision_;
    bool tf32_;
};

}  // namespace

std::unique_ptr<Op> make_linear(const OpContext& context) {
    const auto& inputs = context.inputs;
    context.require(inputs.size() == 3 && inputs[0] && inputs[1] && context.outputs.size() == 1,
                    "expected inputs x, weight, bias (or -1) and one output");
    const ValueSpec& x = *inputs[0];
    const ValueSpec& weight = *inputs[1];
    const ValueSpec& out = *context.outputs[0];
    context.require(weight.sizes.size() == 2 && !x.sizes.empty() && x.sizes.back() == weight.sizes[1],
                    "expected x [..., K] and weight [N, K]");
    std::vector<std::int64_t> sizes = x.sizes;
    sizes.back() = weight.sizes[0];
    context.require(out.sizes == sizes && is_contiguous(out), "expected a contiguous output [..., N]");
    context.require(is_contiguous(weight), "expected a contiguous weight");
    context.require(!inputs[2] || (inputs[2]->sizes == std::vector{sizes.back()} && is_contiguous(*inputs[2])),
                    "expected a contiguous bias [N]");
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        context.require(!inputs[i] || context.input_precisions[i] == context.output_precisions[0],
                        "expected x, weight, bias and output of one precision");
    }
    return std::make_unique<Linear>(weight.sizes[0], weight.sizes[1], static_cast<int>(x.sizes.size()),
                                    context.output_precisions[0], context.integer("tf32", 0) != 0);
}

}  // namespace tqs::ops
