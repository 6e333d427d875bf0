// The kernels of native programs: what an op hands to a backend. As in kernel_table.h, a task is validated data and a
// kernel neither checks, nor allocates, nor throws. Every task covers one tile: some lanes and some samples (initial
// conditions) of a rollout, executed by one thread.
//
// Ensemble rollout (extent.tangent false): every lane is a copy of the rollout; a kernel does the same to each.
// Tangent rollout (extent.tangent true): lane 0 is the primal, lanes 1 ... carry tangents. A linear kernel treats all
// lanes alike; a nonlinear one computes lane 0 and multiplies the tangents by its derivative there.
//
// An element of an output depends on its own lane and sample only (and on lane 0 of that sample in a tangent rollout),
// with the same operations in the same order wherever it lies in a tile: the same bits for any tile and any threads.
#pragma once

#include <cstdint>

#include "backend/elementwise_code.h"
#include "backend/operand.h"

namespace tqs {

// ------------------------------------------------------------------------------------------------ elementwise

struct ElementwiseTask {
    Extent extent;
    int inputs;         // <= kMaxElementwiseInputs, of any precision: converted when loaded
    const Operand* in;  // sizes broadcast to the output's: equal rank, stride 0 where a size is 1
    int outputs;        // <= kMaxElementwiseOutputs, equal sizes; precision of the kernel or converted
    const Operand* out;
    const std::int16_t* output_registers;
    // In a tangent rollout [outputs][inputs]: the register that holds d output / d input, or k...Coefficient. The code
    // computes these too (csrc/program/chain.h), so that a tangent is a sum of products and nothing else.
    const std::int16_t* jacobian;
    int instructions;  // <= kMaxInstructions
    const Instruction* code;
    int registers;  // <= kMaxRegisters
    void* scratch;
};

// ------------------------------------------------------------------------------------------------ products

// y[m, n] = sum_k a[m, k] w[n, k] + bias[n], or y += where `accumulate`. Row m = o * inner + i is at
// a + o * a_outer + i * a_inner, its elements adjacent; y likewise. Summed over k in index order.
struct GemmTask {
    std::int64_t outer, inner;  // M = outer * inner
    const void* a;
    std::int64_t a_outer, a_inner;
    const void* panels;  // w as `pack` wrote it
    std::int64_t n, k;
    const void* bias;  // [n] or null
    void* y;
    std::int64_t y_outer, y_inner;
    bool accumulate;
};

// out[..., m, n] = sum_k a[..., m, k] b[..., k, n]; equal ranks, any strides; the leading sizes are those of out.
// Tangent: da b + a db.
struct MatmulTask {
    Extent extent;
    Operand a, b, out;
    void* scratch;
};

// Depthwise convolution along the last axis: out[c * multiplier + j, l] = sum_i x[c, l * stride + i * dilation -
// padding] weight[c * multiplier + j, i] + bias. x [..., C, L], weight [C * multiplier, 1, taps], out [..., C *
// multiplier, L']; zero padding; any strides. Tangent: linear in x; + dweight, dbias where the constants carry
// tangents.
struct DepthwiseTask {
    Extent extent;
    Operand x, weight, bias, out;  // bias.data null: none
    std::int64_t multiplier, stride, padding, dilation;
    void* scratch;
};

// Lane 1 of an operand (null: its tangents are zero), and elements to the next lane.
struct LanesApart {
    void* data;
    std::int64_t stride;
};

// out = softmax(scale q k^T + mask) v over the last two axes: q [..., S, D], k [..., T, D], v [..., T, E], out [..., S,
// E]; mask (mask.data null: none) broadcasts to [..., S, T] and is added (-inf hides a key); a row that sees no key is
// 0. causal: query s sees keys t <= s + causal_offset + causal_step * clock, where `clock` counts steps on a device
// (null: 0). Tangents of q, k, v and mask in the same pass, no S x T matrix in memory.
struct AttentionTask {
    Extent extent;
    Operand q, k, v, mask, out;
    double scale;
    bool causal;
    std::int64_t causal_offset;
    void* scratch;
    std::int64_t causal_step = 0;
    const std::int64_t* clock = nullptr;
    // Null, or for q, k, v, mask and out where their tangents lie, apart from the primal (devices only); strides of the
    // operand. Operands then have no lane table.
    const LanesApart* apart = nullptr;
};

// ------------------------------------------------------------------------------------------------ rows

enum class Reduction : int { sum, mean, maximum, minimum, product, any, all, argmax, argmin };

// Reduces the axes whose bit is set in `axes`; out has the rank of x and size 1 there. Order: index order, in blocks
// that depend on the sizes only. Ties of maximum and argmax: the first. Tangent of maximum: that of the element chosen.
struct ReduceTask {
    Extent extent;
    Operand x, out;
    Reduction reduction;
    std::uint32_t axes;
    void* scratch;
};

// Over the last axis; any strides.
struct SoftmaxTask {
    Extent extent;
    Operand x, out;
    bool logarithm;
    void* scratch;
};

// Over the last `axes` axes together: (x - mean) / sqrt(variance + epsilon), biased variance; without `center`,
// x / sqrt(mean(x^2) + epsilon).
struct NormalizeTask {
    Extent extent;
    Operand x, out;
    int axes;
    double epsilon;
    bool center;
    void* scratch;
};

// Running sum (or product) along one axis.
struct ScanTask {
    Extent extent;
    Operand x, out;
    int axis;
    bool product;
    void* scratch;
};

// Running maximum (or minimum) along one axis, and its positions (as numbers; tangent 0). Ties: the later element. NaN
// replaces every number, and a later NaN an earlier one. Tangent of the values: that of the elements chosen. Both
// outputs have the precision of the kernel.
struct RunningExtremeTask {
    Extent extent;
    Operand x, values, positions;
    int axis;
    bool largest;
    void* scratch;
};

// ------------------------------------------------------------------------------------------------ movement

// out = x, converted where precisions differ; equal sizes, any strides.
struct CopyTask {
    Extent extent;
    Operand x, out;
};

// Elements `first` ... of each sample of out from those of x: runs[r] copies `count` elements with `step` between
// elements of x (0 repeats one); `from` < 0 writes `fill` (0 in a tangent). Offsets count elements from Operand::data;
// out is contiguous.
struct Run {
    std::int64_t to, from, count, step;
};
struct RemapTask {
    Extent extent;
    Operand x, out;
    std::int64_t runs;
    const Run* run;
    double fill;
};

// out[i...] = x[i... with axis `axis` replaced by index[i...]]: index and out have equal sizes (torch.gather).
// The index is read from lane 0 in a tangent rollout. Out of range: the element becomes NaN.
struct GatherTask {
    Extent extent;
    Operand x, index, out;
    int axis;
};

// The `count` largest (or smallest) along the last axis, in order, and their positions (as numbers; tangent 0).
// Ties: the lower position first. Tangent of the values: that of the elements chosen.
struct TopKTask {
    Extent extent;
    Operand x, values, positions;
    std::int64_t count;
    bool largest;
    void* scratch;
};

// One table per family and precision. `x_scratch` gives the bytes of 64-byte aligned scratch that a task needs (its
// pointers may be null when asked); kernels without one need none.
struct ProductKernels {
    int panel_columns;
    std::int64_t (*packed_elements)(std::int64_t n, std::int64_t k);
    // w[n, k] at w + n * stride_n + k * stride_k, into packed_elements(n, k) elements, 64-byte aligned.
    void (*pack)(const void* w, std::int64_t n, std::int64_t k, std::int64_t stride_n, std::int64_t stride_k,
                 void* panels);
    void (*gemm)(const GemmTask& task);
    std::int64_t (*matmul_scratch)(const MatmulTask& task);
    void (*matmul)(const MatmulTask& task);
    std::int64_t (*depthwise_scratch)(const DepthwiseTask& task);
    void (*depthwise)(const DepthwiseTask& task);
};

struct AttentionKernels {
    std::int64_t (*attention_scratch)(const AttentionTask& task);
    void (*attention)(const AttentionTask& task);
};

struct ElementwiseKernels {
    std::int64_t (*elementwise_scratch)(const ElementwiseTask& task);
    void (*elementwise)(const ElementwiseTask& task);
};

struct RowKernels {
    std::int64_t (*reduce_scratch)(const ReduceTask& task);
    void (*reduce)(const ReduceTask& task);
    std::int64_t (*softmax_scratch)(const SoftmaxTask& task);
    void (*softmax)(const SoftmaxTask& task);
    std::int64_t (*normalize_scratch)(const NormalizeTask& task);
    void (*normalize)(const NormalizeTask& task);
    std::int64_t (*scan_scratch)(const ScanTask& task);
    void (*scan)(const ScanTask& task);
    std::int64_t (*running_extreme_scratch)(const RunningExtremeTask& task);
    void (*running_extreme)(const RunningExtremeTask& task);
    std::int64_t (*top_k_scratch)(const TopKTask& task);
    void (*top_k)(const TopKTask& task);
};

struct MovementKernels {
    void (*copy)(const CopyTask& task);  // indexed by the precision of out
    void (*remap)(const RemapTask& task);
    void (*gather)(const GatherTask& task);
};

// What a KernelTable holds, each an array of kPrecisions.
struct ProgramKernels {
    const ProductKernels* products;
    const AttentionKernels* attention;
    const ElementwiseKernels* elementwise;
    const RowKernels* rows;
    const MovementKernels* movement;
};

}  // namespace tqs
