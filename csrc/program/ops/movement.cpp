// copy: x -> out of equal sizes, any strides (several copies may fill one buffer). remap: runs of elements of x into a
// contiguous out; ints runs = (to, from, count, step)*, floats fill. gather: x, index -> out of the index's sizes; ints
// axis. All are linear in x; the index has no tangent.
#include "program/registry.h"

namespace tqs::ops {
namespace {

std::int64_t count_elements(const ValueSpec& value) {
    std::int64_t count = 1;
    for (const std::int64_t size : value.sizes) count *= size;
    return count;
}

const MovementKernels& kernels_of(const Frame& frame) {
    return frame.kernels->movement[static_cast<int>(frame.out[0].precision)];
}

class CopyOp : public Op {
  public:
    explicit CopyOp(const OpContext& context) {
        context.require(context.inputs.size() == 1 && context.inputs[0] && context.outputs.size() == 1,
                        "expected one input and one output");
        context.require(context.inputs[0]->sizes == context.outputs[0]->sizes, "expected equal sizes");
    }
    std::int64_t scratch_bytes(const Frame&) const override { return 0; }
    void run(const Frame& frame) const override {
        kernels_of(frame).copy({.extent = frame.extent, .x = frame.in[0], .out = frame.out[0]});
    }
};

class RemapOp : public Op {
  public:
    explicit RemapOp(const OpContext& context) : fill_(context.number("fill", 0.0)) {
        context.require(context.inputs.size() == 1 && context.inputs[0] && context.outputs.size() == 1,
                        "expected one input and one output");
        const auto flat = context.integers("runs");
        context.require(flat.size() % 4 == 0, "expected 'runs' of four numbers each");
        const std::int64_t elements = count_elements(*context.outputs[0]);
        std::int64_t last = 0, covered = 0;
        for (std::size_t axis = 0; axis < context.inputs[0]->sizes.size(); ++axis) {
            last += (context.inputs[0]->sizes[axis] - 1) * context.inputs[0]->strides[axis];
        }
        for (std::size_t r = 0; r < flat.size(); r += 4) {
            const Run run{flat[r], flat[r + 1], flat[r + 2], flat[r + 3]};
            context.require(run.count >= 1 && run.to >= 0 && run.to + run.count <= elements, "a run leaves the output");
            context.require(run.from < 0 || (run.from <= last && run.from + run.step * (run.count - 1) <= last &&
                                             run.from + run.step * (run.count - 1) >= 0),
                            "a run leaves the input");
            covered += run.count;
            runs_.push_back(run);
        }
        context.require(covered == elements, "runs must write every element of the output once");
    }
    std::int64_t scratch_bytes(const Frame&) const override { return 0; }
    void run(const Frame& frame) const override {
        kernels_of(frame).remap({.extent = frame.extent,
                                 .x = frame.in[0],
                                 .out = frame.out[0],
                                 .runs = static_cast<std::int64_t>(runs_.size()),
                                 .run = runs_.data(),
                                 .fill = fill_});
    }

  private:
    double fill_;
    std::vector<Run> runs_;
};

class GatherOp : public Op {
  public:
    explicit GatherOp(const OpContext& context) : axis_(static_cast<int>(context.integer("axis"))) {
        context.require(
            context.inputs.size() == 2 && context.inputs[0] && context.inputs[1] && context.outputs.size() == 1,
            "expected x and index, and one output");
        const auto &x = context.inputs[0]->sizes, &index = context.inputs[1]->sizes;
        context.require(index == context.outputs[0]->sizes, "expected an output of the index's sizes");
        context.require(x.size() == index.size(), "expected x and index of equal rank");
        context.require(axis_ >= 0 && static_cast<std::size_t>(axis_) < x.size(), "there is no such axis");
        for (std::size_t axis = 0; axis < x.size(); ++axis) {
            context.require(axis == static_cast<std::size_t>(axis_) || index[axis] <= x[axis],
                            "the index is larger than x along another axis");
        }
    }
    std::int64_t scratch_bytes(const Frame&) const override { return 0; }
    void run(const Frame& frame) const override {
        kernels_of(frame).gather(
            {.extent = frame.extent, .x = frame.in[0], .index = frame.in[1], .out = frame.out[0], .axis = axis_});
    }

  private:
    int axis_;
};

}  // namespace

std::unique_ptr<Op> make_copy(const OpContext& context) {
    return std::make_unique<CopyOp>(context);
}

std::unique_ptr<Op> make_remap(const OpContext& context) {
    return std::make_unique<RemapOp>(context);
}

std::unique_ptr<Op> make_gather(const OpContext& context) {
    return std::make_unique<GatherOp>(context);
}

}  // namespace tqs::ops
