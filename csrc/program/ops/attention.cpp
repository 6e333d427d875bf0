// attention: q [..., S, D], k [..., T, D], v [..., T, E] and optionally a mask that broadcasts to [..., S, T] ->
// out [..., S, E] with adjacent elements. Leading axes are equal, with stride 0 where heads share keys and values.
// ints causal, causal_offset; floats scale (without it 1 / sqrt(D)). Forward and tangent rule: AttentionTask.
#include <algorithm>
#include <cmath>

#include "program/registry.h"

namespace tqs::ops {
namespace {

class Attention : public Op {
  public:
    explicit Attention(const OpContext& context) {
        const auto &inputs = context.inputs, &outputs = context.outputs;
        context.require(inputs.size() == 4 && outputs.size() == 1, "expected q, k, v, a mask or -1, and one output");
        const ValueSpec *q = inputs[0], *k = inputs[1], *v = inputs[2], *mask = inputs[3], *out = outputs[0];
        context.require(q && k && v && out, "q, k and v must be given");
        for (std::size_t input = 0; input < inputs.size(); ++input) {
            context.require(!inputs[input] || context.input_precisions[input] == context.output_precisions[0],
                            "q, k, v, mask and output must have one precision");
        }
        const std::size_t rank = out->sizes.size();
        context.require(rank >= 2 && q->sizes.size() == rank && k->sizes.size() == rank && v->sizes.size() == rank,
                        "q, k, v and output must have one rank, 2 or more");
        const std::size_t row = rank - 2, column = rank - 1;
        for (std::size_t axis = 0; axis < row; ++axis) {
            const std::int64_t size = out->sizes[axis];
            context.require(q->sizes[axis] == size && k->sizes[axis] == size && v->sizes[axis] == size,
                            "q, k, v and output must have equal leading sizes (expand shared heads)");
        }
        context.require(q->sizes[row] == out->sizes[row] && k->sizes[row] == v->sizes[row] &&
                            q->sizes[column] == k->sizes[column] && v->sizes[column] == out->sizes[column],
                        "expected q [..., S, D], k [..., T, D], v [..., T, E] and output [..., S, E]");
        context.require(out->strides[column] == 1 || out->sizes[column] == 1, "rows of the output must be adjacent");
        if (mask) {
            context.require(mask->sizes.size() <= rank, "the mask has more axes than the scores");
            for (std::size_t axis = 0; axis < mask->sizes.size(); ++axis) {
                const std::size_t to = rank - mask->sizes.size() + axis;
                const std::int64_t size = to == column ? k->sizes[row] : out->sizes[to];
                context.require(mask->sizes[axis] == size || mask->sizes[axis] == 1,
                                "the mask does not broadcast to [..., S, T]");
            }
        }
        causal_ = context.integer("causal", 0) != 0;
        causal_offset_ = context.integer("causal_offset", 0);
        causal_step_ = context.integer("causal_step", 0);
        scale_ = context.number("scale", 1.0 / std::sqrt(static_cast<double>(q->sizes[column])));
    }

    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels(frame).attention_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels(frame).attention(task(frame)); }

  private:
    static const AttentionKernels& kernels(const Frame& frame) {
        return frame.kernels->attention[static_cast<int>(frame.out[0].precision)];
    }

    AttentionTask task(const Frame& frame) const {
        const bool counted = frame.device && causal_step_ != 0;
        return {.extent = frame.extent,
                .q = frame.in[0],
                .k = frame.in[1],
                .v = frame.in[2],
                .mask = expand(frame.in[3], frame.out[0], frame.in[1]),
                .out = frame.out[0],
                .scale = scale_,
                .causal = causal_,
                .causal_offset = causal_offset_ + (counted ? 0 : frame.step * causal_step_),
                .scratch = frame.scratch,
                .causal_step = causal_step_,
                .clock = counted ? frame.clock : nullptr};
    }

    // The mask as [..., S, T].
    static Operand expand(const Operand& mask, const Operand& out, const Operand& k) {
        if (mask.rank == 0) return mask;
        Operand expanded = mask;
        expanded.rank = out.rank;
        const int missing = out.rank - mask.rank;
        for (int axis = 0; axis < out.rank; ++axis) {
            const int from = axis - missing;
            expanded.sizes[axis] = axis == out.rank - 1 ? k.sizes[axis - 1] : out.sizes[axis];
            expanded.strides[axis] = from < 0 || mask.sizes[from] == 1 ? 0 : mask.strides[from];
        }
        return expanded;
    }

    bool causal_;
    std::int64_t causal_offset_, causal_step_;  // the offset at step 0, and what every later step adds
    double scale_;
};

}  // namespace

std::unique_ptr<Op> make_attention(const OpContext& context) {
    return std::make_unique<Attention>(context);
}

}  // namespace tqs::ops
