// One kernel of programs, emulated: what tests/emulated_program.py calls. Attributes come as numbers in the order in
// which the cases below read them.
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device/loops.cuh"
#include "cuda/program/context.h"
#include "cuda/program/kernels.h"
#include "emulator.h"
#include "program/chain.h"

using namespace tqs;
using namespace tqs::cuda;

namespace {

std::string problem;

struct Scratch {
    explicit Scratch(std::int64_t bytes)
        : size(static_cast<std::size_t>(bytes)), memory(bytes ? emulator::allocate(size) : nullptr) {}
    ~Scratch() {
        if (memory) emulator::release(memory, size);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    std::size_t size;
    void* memory;
};

template <class Task>
void run(Task& task, std::int64_t (*scratch)(const Task&), void (*kernel)(const Task&)) {
    const Scratch memory(scratch(task));
    task.scratch = memory.memory;
    kernel(task);
}

}  // namespace

extern "C" {

struct EmulatedNode {
    const char* kind;
    std::int64_t lanes, samples;
    int tangent, precision;  // of the kernel
    int inputs, outputs;
    const Operand* in;
    const Operand* out;
    const std::int64_t* ints;
    std::int64_t int_count;
    const double* floats;
    const std::int64_t* output_registers;
};

}  // extern "C"

namespace {

void run_elementwise(const EmulatedNode& n, const Extent& extent) {
    Chain chain;
    chain.inputs = n.inputs;
    chain.registers = n.inputs;
    for (std::int64_t i = 0; i < n.int_count; i += 5) {
        const std::int64_t* word = n.ints + i;
        const auto r = [&](int k) {
            return static_cast<std::int16_t>(word[k]);
        };
        chain.code.push_back({static_cast<Opcode>(word[0]), r(1), r(2), r(3), r(4), n.floats[i / 5]});
        ++chain.registers;
    }
    for (int o = 0; o < n.outputs; ++o) chain.outputs.push_back(static_cast<std::int16_t>(n.output_registers[o]));
    chain = simplify(chain);
    if (extent.tangent && extent.lanes > 1) chain = differentiate(chain);
    chain = allocate_registers(chain);
    ElementwiseTask task{.extent = extent,
                         .inputs = n.inputs,
                         .in = n.in,
                         .outputs = n.outputs,
                         .out = n.out,
                         .output_registers = chain.outputs.data(),
                         .jacobian = chain.jacobian.data(),
                         .instructions = static_cast<int>(chain.code.size()),
                         .code = chain.code.data(),
                         .registers = chain.registers,
                         .scratch = nullptr};
    const ElementwiseKernels& kernels = elementwise_kernels[n.precision];
    run(task, kernels.elementwise_scratch, kernels.elementwise);
}

void run_rows(const EmulatedNode& n, const Extent& extent, const std::string& kind) {
    const RowKernels& kernels = row_kernels[n.precision];
    const Operand &x = n.in[0], &out = n.out[0];
    const int first = static_cast<int>(n.ints[0]);
    const bool second = n.int_count > 1 && n.ints[1] != 0;
    if (kind == "reduce") {
        ReduceTask task{extent, x, out, static_cast<Reduction>(first), static_cast<std::uint32_t>(n.ints[1]), nullptr};
        run(task, kernels.reduce_scratch, kernels.reduce);
    } else if (kind == "softmax") {
        SoftmaxTask task{extent, x, out, first != 0, nullptr};
        run(task, kernels.softmax_scratch, kernels.softmax);
    } else if (kind == "normalize") {
        NormalizeTask task{extent, x, out, first, n.floats[0], second, nullptr};
        run(task, kernels.normalize_scratch, kernels.normalize);
    } else if (kind == "scan") {
        ScanTask task{extent, x, out, first, second, nullptr};
        run(task, kernels.scan_scratch, kernels.scan);
    } else if (kind == "running_extreme") {
        RunningExtremeTask task{extent, x, out, n.out[1], first, second, nullptr};
        run(task, kernels.running_extreme_scratch, kernels.running_extreme);
    } else {
        TopKTask task{extent, x, out, n.out[1], first, second, nullptr};
        run(task, kernels.top_k_scratch, kernels.top_k);
    }
}

void run_movement(const EmulatedNode& n, const Extent& extent, const std::string& kind) {
    const MovementKernels& kernels = movement_kernels[n.precision];
    if (kind == "copy") return kernels.copy({extent, n.in[0], n.out[0]});
    if (kind == "gather") return kernels.gather({extent, n.in[0], n.in[1], n.out[0], static_cast<int>(n.ints[0])});
    std::vector<Run> runs;
    for (std::int64_t i = 0; i < n.int_count; i += 4) {
        runs.push_back({n.ints[i], n.ints[i + 1], n.ints[i + 2], n.ints[i + 3]});
    }
    kernels.remap({extent, n.in[0], n.out[0], static_cast<std::int64_t>(runs.size()), runs.data(), n.floats[0]});
}

void run_depthwise(const EmulatedNode& n, const Extent& extent) {
    DepthwiseTask task{extent,    n.in[0],   n.in[1],   n.in[2],   n.out[0],
                       n.ints[0], n.ints[1], n.ints[2], n.ints[3], nullptr};
    if (n.precision == 0) {
        run(task, depthwise_scratch, depthwise<float>);
    } else {
        run(task, depthwise_scratch, depthwise<double>);
    }
}

void run_attention(const EmulatedNode& n, const Extent& extent) {
    AttentionTask task{extent,   n.in[0],     n.in[1],        n.in[2],   n.in[3],
                       n.out[0], n.floats[0], n.ints[0] != 0, n.ints[1], nullptr};
    if (n.int_count > 2) {
        task.causal_step = n.ints[2];
        task.clock = n.ints + 3;
    }
    const AttentionKernels& kernels = attention_kernels[n.precision];
    run(task, kernels.attention_scratch, kernels.attention);
}

}  // namespace

extern "C" std::uint32_t emulated_quotient(std::uint32_t n, std::int64_t divisor) {
    return Divider::of(divisor).quotient(n);
}

extern "C" const char* emulated_node(const EmulatedNode* node) {
    try {
        const std::string kind = node->kind;
        const Extent extent{node->lanes, node->samples, node->tangent != 0};
        Context context(nullptr, false);
        const ContextScope scope(context);
        if (kind == "elementwise") {
            run_elementwise(*node, extent);
        } else if (kind == "copy" || kind == "remap" || kind == "gather") {
            run_movement(*node, extent, kind);
        } else if (kind == "convolution") {
            run_depthwise(*node, extent);
        } else if (kind == "attention") {
            run_attention(*node, extent);
        } else {
            run_rows(*node, extent, kind);
        }
        return nullptr;
    } catch (const std::exception& error) {
        problem = error.what();
        return problem.c_str();
    }
}
