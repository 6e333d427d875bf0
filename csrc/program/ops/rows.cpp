// Ops along axes; rules of tangents are those of the tasks (backend/program_kernels.h).
//
// reduce     x -> out with size 1 along the reduced axes; ints kind (enum Reduction), axes
// softmax    x -> out of equal sizes, over the last axis; ints logarithm
// normalize  x -> out of equal sizes, over the last `axes` axes together; ints axes, center; floats epsilon
// scan       x -> out of equal sizes; ints axis, product
// running_extreme  x -> values, positions of equal sizes and one precision; ints axis, largest
// top_k      x -> values, positions with `count` elements along the last axis; ints count, largest
#include <algorithm>

#include "program/registry.h"

namespace tqs::ops {
namespace {

const RowKernels& kernels_of(const Frame& frame, Precision precision) {
    return frame.kernels->rows[static_cast<int>(precision)];
}

Precision wider(const Frame& frame) {
    return std::max(computed_in(frame.in[0].precision), computed_in(frame.out[0].precision));
}

const std::vector<std::int64_t>& sizes_of_one(const OpContext& context, std::size_t outputs) {
    context.require(context.inputs.size() == 1 && context.inputs[0], "expected one input");
    context.require(context.outputs.size() == outputs, outputs == 1 ? "expected one output" : "expected two outputs");
    context.require(!context.inputs[0]->sizes.empty(), "expected at least one axis");
    return context.inputs[0]->sizes;
}

void require_equal_sizes(const OpContext& context) {
    context.require(sizes_of_one(context, 1) == context.outputs[0]->sizes, "expected an output of the input's sizes");
}

int axis_of(const OpContext& context, std::int64_t axis) {
    context.require(axis >= 0 && axis < static_cast<std::int64_t>(context.inputs[0]->sizes.size()),
                    "there is no such axis");
    return static_cast<int>(axis);
}

class ReduceOp : public Op {
  public:
    explicit ReduceOp(const OpContext& context) {
        std::vector<std::int64_t> sizes = sizes_of_one(context, 1);
        const std::int64_t kind = context.integer("kind");
        context.require(kind >= 0 && kind <= static_cast<std::int64_t>(Reduction::argmin),
                        "there is no such reduction");
        reduction_ = static_cast<Reduction>(kind);
        for (const std::int64_t given : context.integers("axes")) {
            const int axis = axis_of(context, given);
            axes_ |= 1u << axis;
            sizes[static_cast<std::size_t>(axis)] = 1;
        }
        context.require(sizes == context.outputs[0]->sizes, "expected an output of size 1 along the reduced axes");
    }
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels_of(frame, frame.in[0].precision).reduce_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels_of(frame, frame.in[0].precision).reduce(task(frame)); }
    bool separable(int axis) const override { return (axes_ >> axis & 1u) == 0; }

  private:
    ReduceTask task(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .out = frame.out[0],
                .reduction = reduction_,
                .axes = axes_,
                .scratch = frame.scratch};
    }

    Reduction reduction_;
    std::uint32_t axes_ = 0;
};

class SoftmaxOp : public Op {
  public:
    explicit SoftmaxOp(const OpContext& context) : logarithm_(context.integer("logarithm") != 0) {
        require_equal_sizes(context);
        rank_ = static_cast<int>(context.inputs[0]->sizes.size());
    }
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels_of(frame, wider(frame)).softmax_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels_of(frame, wider(frame)).softmax(task(frame)); }
    bool separable(int axis) const override { return axis < rank_ - 1; }

  private:
    SoftmaxTask task(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .out = frame.out[0],
                .logarithm = logarithm_,
                .scratch = frame.scratch};
    }

    bool logarithm_;
    int rank_ = 0;
};

class NormalizeOp : public Op {
  public:
    explicit NormalizeOp(const OpContext& context)
        : epsilon_(context.number("epsilon", 0.0)), center_(context.integer("center") != 0) {
        require_equal_sizes(context);
        axes_ = 1 + axis_of(context, context.integer("axes") - 1);
        rank_ = static_cast<int>(context.inputs[0]->sizes.size());
    }
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels_of(frame, wider(frame)).normalize_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels_of(frame, wider(frame)).normalize(task(frame)); }
    bool separable(int axis) const override { return axis < rank_ - axes_; }

  private:
    NormalizeTask task(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .out = frame.out[0],
                .axes = axes_,
                .epsilon = epsilon_,
                .center = center_,
                .scratch = frame.scratch};
    }

    int axes_ = 1;
    int rank_ = 0;
    double epsilon_;
    bool center_;
};

class ScanOp : public Op {
  public:
    explicit ScanOp(const OpContext& context) : product_(context.integer("product") != 0) {
        require_equal_sizes(context);
        axis_ = axis_of(context, context.integer("axis"));
    }
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels_of(frame, frame.out[0].precision).scan_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels_of(frame, frame.out[0].precision).scan(task(frame)); }

  private:
    ScanTask task(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .out = frame.out[0],
                .axis = axis_,
                .product = product_,
                .scratch = frame.scratch};
    }

    int axis_ = 0;
    bool product_;
};

class RunningExtremeOp : public Op {
  public:
    explicit RunningExtremeOp(const OpContext& context) : largest_(context.integer("largest") != 0) {
        const std::vector<std::int64_t>& sizes = sizes_of_one(context, 2);
        context.require(sizes == context.outputs[0]->sizes && sizes == context.outputs[1]->sizes,
                        "expected outputs of the input's sizes");
        context.require(context.output_precisions[0] == context.output_precisions[1],
                        "expected outputs of one precision");
        axis_ = axis_of(context, context.integer("axis"));
    }
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels_of(frame, frame.out[0].precision).running_extreme_scratch(task(frame));
    }
    void run(const Frame& frame) const override {
        kernels_of(frame, frame.out[0].precision).running_extreme(task(frame));
    }

  private:
    RunningExtremeTask task(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .values = frame.out[0],
                .positions = frame.out[1],
                .axis = axis_,
                .largest = largest_,
                .scratch = frame.scratch};
    }

    int axis_ = 0;
    bool largest_;
};

class TopKOp : public Op {
  public:
    explicit TopKOp(const OpContext& context)
        : count_(context.integer("count")), largest_(context.integer("largest") != 0) {
        std::vector<std::int64_t> sizes = sizes_of_one(context, 2);
        context.require(count_ >= 1 && count_ <= sizes.back(), "expected a count of at most the last size");
        sizes.back() = count_;
        context.require(sizes == context.outputs[0]->sizes && sizes == context.outputs[1]->sizes,
                        "expected outputs of `count` elements along the last axis");
    }
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels_of(frame, frame.in[0].precision).top_k_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels_of(frame, frame.in[0].precision).top_k(task(frame)); }

  private:
    TopKTask task(const Frame& frame) const {
        return {.extent = frame.extent,
                .x = frame.in[0],
                .values = frame.out[0],
                .positions = frame.out[1],
                .count = count_,
                .largest = largest_,
                .scratch = frame.scratch};
    }

    std::int64_t count_;
    bool largest_;
};

}  // namespace

std::unique_ptr<Op> make_reduce(const OpContext& context) {
    return std::make_unique<ReduceOp>(context);
}

std::unique_ptr<Op> make_softmax(const OpContext& context) {
    return std::make_unique<SoftmaxOp>(context);
}

std::unique_ptr<Op> make_normalize(const OpContext& context) {
    return std::make_unique<NormalizeOp>(context);
}

std::unique_ptr<Op> make_scan(const OpContext& context) {
    return std::make_unique<ScanOp>(context);
}

std::unique_ptr<Op> make_running_extreme(const OpContext& context) {
    return std::make_unique<RunningExtremeOp>(context);
}

std::unique_ptr<Op> make_top_k(const OpContext& context) {
    return std::make_unique<TopKOp>(context);
}

}  // namespace tqs::ops
