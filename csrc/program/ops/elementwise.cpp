// elementwise: inputs (views that broadcast to the outputs' sizes) -> 1 ... kMaxElementwiseOutputs outputs of equal
// sizes. ints code = (opcode, out, a, b, c)* with registers as in Instruction, output_registers; floats values, one per
// instruction. Tangent: sum over the inputs of d output / d input (chain.h) times their tangents.
//
// Computed in float64 where an input or output is float64, else in float32: a chain rounds its outputs only.
#include <algorithm>

#include "program/chain.h"
#include "program/registry.h"

namespace tqs::ops {
namespace {

Chain read_chain(const OpContext& context) {
    constexpr std::size_t fields = 5;
    const auto flat = context.integers("code");
    const auto values = context.numbers("values");
    const std::size_t count = flat.size() / fields;
    context.require(flat.size() % fields == 0 && values.size() == count,
                    "expected 'code' of five numbers and one of 'values' per instruction");
    Chain chain;
    chain.inputs = static_cast<int>(context.inputs.size());
    chain.registers = chain.inputs + static_cast<int>(count);
    context.require(chain.registers <= kMaxInstructions, "the chain is too long; split it");
    std::vector<bool> written(static_cast<std::size_t>(chain.registers));
    std::fill_n(written.begin(), chain.inputs, true);
    const auto known = [&](std::int64_t r) {
        return r >= 0 && r < chain.registers && written[static_cast<std::size_t>(r)];
    };
    for (std::size_t index = 0; index < count; ++index) {
        const std::int64_t* word = &flat[index * fields];
        context.require(word[0] >= 0 && word[0] < kOpcodes, "an opcode is not known");
        Instruction code{static_cast<Opcode>(word[0]), 0, 0, 0, 0, values[index]};
        std::int16_t* const arguments[] = {&code.a, &code.b, &code.c};
        for (int argument = 0; argument < arity(code.op); ++argument) {
            context.require(known(word[2 + argument]), "an instruction reads a register that is not written yet");
            *arguments[argument] = static_cast<std::int16_t>(word[2 + argument]);
        }
        context.require(word[1] >= 0 && word[1] < chain.registers && !known(word[1]),
                        "an instruction must write a register of its own");
        code.out = static_cast<std::int16_t>(word[1]);
        written[static_cast<std::size_t>(word[1])] = true;
        chain.code.push_back(code);
    }
    for (const std::int64_t r : context.integers("output_registers")) {
        context.require(known(r), "an output register is not written");
        chain.outputs.push_back(static_cast<std::int16_t>(r));
    }
    context.require(chain.outputs.size() == context.outputs.size(), "expected one output register per output");
    return chain;
}

class ElementwiseOp : public Op {
  public:
    explicit ElementwiseOp(const OpContext& context) {
        context.require(context.inputs.size() <= kMaxElementwiseInputs, "more than 16 inputs");
        context.require(!context.outputs.empty() && context.outputs.size() <= kMaxElementwiseOutputs,
                        "expected 1 to 4 outputs");
        const std::vector<std::int64_t>& sizes = context.outputs[0]->sizes;
        for (const ValueSpec* output : context.outputs) {
            context.require(output->sizes == sizes, "outputs differ in size");
        }
        for (const ValueSpec* input : context.inputs) {
            context.require(input && input->sizes.size() == sizes.size(), "expected inputs of the outputs' rank");
            for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
                context.require(input->sizes[axis] == sizes[axis] || input->sizes[axis] == 1,
                                "an input does not broadcast to the outputs' sizes");
            }
        }
        for (const auto precisions : {context.input_precisions, context.output_precisions}) {
            for (const Precision precision : precisions) {
                precision_ = std::max(precision_, computed_in(precision));
            }
        }
        const Chain chain = simplify(read_chain(context));
        forward_ = allocate_registers(chain);
        tangent_ = allocate_registers(differentiate(chain));
        context.require(tangent_.registers <= kMaxRegisters && tangent_.code.size() <= kMaxInstructions,
                        "the chain and its derivative take too many registers; split it");
    }

    std::int64_t scratch_bytes(const Frame& frame) const override {
        return kernels(frame).elementwise_scratch(task(frame));
    }
    void run(const Frame& frame) const override { kernels(frame).elementwise(task(frame)); }
    bool separable(int) const override { return true; }

  private:
    const ElementwiseKernels& kernels(const Frame& frame) const {
        return frame.kernels->elementwise[static_cast<int>(precision_)];
    }

    ElementwiseTask task(const Frame& frame) const {
        const Chain& chain = frame.extent.tangent && frame.extent.lanes > 1 ? tangent_ : forward_;
        return {.extent = frame.extent,
                .inputs = static_cast<int>(frame.in.size()),
                .in = frame.in.data(),
                .outputs = static_cast<int>(frame.out.size()),
                .out = frame.out.data(),
                .output_registers = chain.outputs.data(),
                .jacobian = chain.jacobian.data(),
                .instructions = static_cast<int>(chain.code.size()),
                .code = chain.code.data(),
                .registers = chain.registers,
                .scratch = frame.scratch};
    }

    Precision precision_ = Precision::float32;
    Chain forward_, tangent_;
};

}  // namespace

std::unique_ptr<Op> make_elementwise(const OpContext& context) {
    return std::make_unique<ElementwiseOp>(context);
}

}  // namespace tqs::ops
