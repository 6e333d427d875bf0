// matmul: a [..., M, K], b [..., K, N] of equal ranks -> [..., M, N]. Tangent: da b + a db.
#include "program/registry.h"

namespace tqs::ops {
namespace {

class Matmul : public Op {
  public:
    std::int64_t scratch_bytes(const Frame& frame) const override {
        return products(frame).matmul_scratch(task_of(frame));
    }

    void run(const Frame& frame) const override { products(frame).matmul(task_of(frame)); }

  private:
    static const ProductKernels& products(const Frame& frame) {
        return frame.kernels->products[static_cast<int>(frame.out[0].precision)];
    }

    static MatmulTask task_of(const Frame& frame) {
        return {frame.extent, frame.in[0], frame.in[1], frame.out[0], frame.scratch};
    }
};

}  // namespace

std::unique_ptr<Op> make_matmul(const OpContext& context) {
    context.require(context.inputs.size() == 2 && context.inputs[0] && context.inputs[1] && context.outputs.size() == 1,
                    "expected inputs a, b and one output");
    const ValueSpec& a = *context.inputs[0];
    const ValueSpec& b = *context.inputs[1];
    const ValueSpec& out = *context.outputs[0];
    const std::size_t rank = a.sizes.size();
    context.require(rank >= 2 && b.sizes.size() == rank, "expected a [..., M, K] and b [..., K, N] of equal ranks");
    context.require(a.sizes[rank - 1] == b.sizes[rank - 2], "expected as many columns of a as rows of b");
    std::vector<std::int64_t> sizes = a.sizes;
    sizes.back() = b.sizes.back();
    for (std::size_t axis = 0; axis + 2 < rank; ++axis) {
        context.require(a.sizes[axis] == b.sizes[axis], "expected equal leading sizes; broadcast with strides of 0");
    }
    context.require(out.sizes == sizes && is_contiguous(out), "expected a contiguous output [..., M, N]");
    for (const Precision precision : context.input_precisions) {
        context.require(precision == context.output_precisions[0], "expected a, b and output of one precision");
    }
    return std::make_unique<Matmul>();
}

}  // namespace tqs::ops
