// Where the callers (quant/, bindings/) and the backends (cpu/<isa>/, cuda/ or no_cuda/) meet. Neither side includes
// the other: a backend fills a table of function pointers, a caller reads it. Kernels see pointers, sizes and strides
// that have been validated; they neither check, nor allocate, nor throw.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "backend/program_kernels.h"
#include "core/dtype.h"
#include "quant/format.h"

namespace tqs {

enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, neon = 3 };
inline constexpr int kIsas = 4;

static constexpr const char* isa_name(Isa isa) {
    constexpr const char* names[kIsas] = {"scalar", "avx2", "avx512", "neon"};
    return names[static_cast<int>(isa)];
}

// How a product takes its activations.
//
// exact  as float32 (bfloat16 widened).
// pairs  bfloat16 as it is, two at a time: what `exact` means for a processor that multiplies them. Callers ask for
// exact. int8   row by row rounded to integers q[k] = rint(x[k] (127 / a)), ties to even, a the largest |x[k]| of the
// row, and
//        its scale a / 127. A row with a < kQuietRow counts as zeros; one that holds NaN or infinity has the scale NaN.
enum class Activation : int { exact = 0, pairs = 1, int8 = 2 };
inline constexpr int kActivations = 3;
inline constexpr float kQuietRow = 0x1p-100f;  // 127 / a is finite above 2^-121

// y[M, N] = x[M, K] W[N, K]^T + bias[N]
struct QgemmTask {
    const void* x;               // [M, K] float32 or bfloat16 as the kernel's name says; any alignment
    std::int64_t x_stride;       // elements between rows
    std::int64_t rows;           // M
    PackedView weight;           // [N, K]
    const std::uint8_t* panels;  // null, or this weight as the same table's `prepack` wrote it
    const float* bias;           // [N] or null
    void* y;                     // [M, N], dtype of x
    std::int64_t y_stride;
    const std::uint8_t* activations;  // all rows as the table's `activations` wrote them; null where that entry is null
};

// Ratios of the candidates of a scale search to the minmax scale (quant/search.h), the first 1. Symmetric: `least`
// alone, a negative one turns the sign of the scale. Asymmetric: of the ends of the range.
inline constexpr int kScaleCandidates = 32;
struct ScaleRatios {
    double least[kScaleCandidates];
    double most[kScaleCandidates];
};

// Float weights to the packed format.
struct QuantizeTask {
    const float* weights;  // [rows, columns], finite
    std::int64_t stride;   // elements between rows
    std::int64_t columns;
    std::int64_t group_size;
    const ScaleRatios* ratios;
    bool search;          // among all candidates; else the first is taken
    std::uint8_t* codes;  // as in PackedView
    std::uint16_t* scales;
    std::uint8_t* zeros;  // null for the symmetric form
};

// Packs rows [begin, end) as quant/search.h says, bit for bit: every kernel writes the same bytes.
using QuantizeKernel = void (*)(const QuantizeTask& task, std::int64_t begin, std::int64_t end);

// Writes rows [begin, end) of the matrix as float32 into out, whose row `begin` is at out and rows are `stride` apart.
using DequantizeKernel = void (*)(const PackedView& weight, std::int64_t begin, std::int64_t end, float* out,
                                  std::int64_t stride);

// Rewrites rows [begin, end) of x for the product; `out` holds activation_bytes(task) bytes for all rows, 64-byte
// aligned.
using ActivationBytes = std::int64_t (*)(const QgemmTask& task);
using ActivationKernel = void (*)(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out);

// Computes columns [begin, end) of y; `begin` is a multiple of the table's panel_columns, and `end` is one or is N.
// Sums are taken span by span (quant/format.h), with u the codes, z their zero point and s the scale of a span:
//
// exact  sum = 0; per span: part = sum_k x[k] (u[k] - z) from 0 in index order, sum = sum + s part.
//        y = sum + bias. Products and sums in float32, fused or not as the ISA has it. With u = 2^-24
//        |y - exact| <= (K + 2) u (sum |x||w| + |bias|), while no sum of |x[k] (u[k] - z)| of a span exceeds float32.
// pairs  the same in another order, and products and parts below 2^-126 count as zero.
// int8   sum = 0; per span: part = sum_k q[k] (u[k] - z), an exact integer rounded to float32, sum = fma(s, part, sum).
//        y = fma(sum, scale of the row, bias). The same bits on every ISA.
//
// One rounding to bfloat16 at the end where y is bfloat16 (2^-8 |y| more). An element therefore depends on its row of x
// and its row of W only: the same bits for any M, any threads, prepacked or not.
// `scratch` holds scratch_bytes(weight) bytes, 64-byte aligned.
using QgemmKernel = void (*)(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* scratch);

// Rewrites the weight into the ISA's own layout; `out` holds prepacked_bytes(weight) bytes, 64-byte aligned.
using PrepackKernel = void (*)(const PackedView& weight, std::uint8_t* out);

// The recurrent networks, with the gates and their order as in PyTorch.
enum class Recurrence : int { lstm = 0, gru = 1, rnn_tanh = 2, rnn_relu = 3 };
inline constexpr int kRecurrences = 4;

static constexpr const char* recurrence_name(Recurrence recurrence) {
    constexpr const char* names[kRecurrences] = {"lstm", "gru", "rnn_tanh", "rnn_relu"};
    return names[static_cast<int>(recurrence)];
}

static constexpr std::int64_t gate_count(Recurrence recurrence) {
    return recurrence == Recurrence::lstm ? 4 : recurrence == Recurrence::gru ? 3 : 1;
}

// One time step of some samples: the gates from both of their projections, then the new state. All float32.
struct GatesTask {
    const float* x;  // [B, gates * H] W_ih x + b_ih
    std::int64_t x_stride;
    const float* h;  // [B, gates * H] W_hh h + b_hh
    std::int64_t h_stride;
    float* hidden;  // [B, H] the new hidden state (LSTM: before any projection); GRU: the old one on entry
    std::int64_t hidden_stride;
    float* cell;  // [B, H] LSTM: the old cell on entry, the new one on return; else null
    std::int64_t cell_stride;
    std::int64_t size;  // H
};

// Samples [begin, end). With S the logistic function and u = 2^-24, the error of what is computed from these float32
// arguments (`*`: on entry):
//
// lstm  c = S(f) c* + S(i) tanh(g), h = S(o) tanh(c)       7 u (1 + |c*|) in c, 7 u (2 + |c*|) in h
// gru   n = tanh(x_n + S(r) h_n), h = n + S(z) (h* - n)    8 u (1 + |h*| + |h_n|)
// rnn   h = tanh(x + h), or max(x + h, 0)                  2 u, or u |h|
//
// It follows from 2.5 and 1.5 units in the last place for S and tanh (cpu/panel/functions.h), of values of at most 1,
// and from |v S'(v)| <= 0.23 and |v tanh'(v)| <= 0.45 for the rounding of an argument v. NaN in, NaN out. The same bits
// for a sample whatever the others are.
using GatesKernel = void (*)(const GatesTask& task, std::int64_t begin, std::int64_t end);

struct KernelTable {
    Isa isa;
    int panel_columns;     // output columns of one unit of work
    std::uint32_t layout;  // identifies what `prepack` writes; changes whenever that layout does
    bool (*supported)();   // whether this processor and operating system run it
    std::int64_t (*scratch_bytes)(const PackedView& weight);
    bool (*has_pairs)();  // whether it runs the kernels of Activation::pairs too; null: there are none
    std::int64_t (*prepacked_bytes)(const PackedView& weight);
    const QuantizeKernel* quantize;                  // [kFormats]
    const DequantizeKernel* dequantize;              // [kFormats]
    const ActivationBytes* activation_bytes;         // [kActivations]
    const ActivationKernel (*activations)[kDTypes];  // [kActivations][kDTypes]; null: x is read where it lies
    const QgemmKernel (*qgemm)[kDTypes][kFormats];   // [kActivations][kDTypes][kFormats]
    const PrepackKernel* prepack;                    // [kFormats]
    const GatesKernel* gates;                        // [kRecurrences]
    ProgramKernels program;
};

// The tables compiled in, slowest first; the scalar one always leads. Defined by cpu/tables.cpp.
std::span<const KernelTable* const> cpu_tables();

// The CUDA backend: cuda/table.cpp, or no_cuda/table.cpp where every call throws and says how to get it.
namespace cuda {

bool built();
std::string architectures();  // "80,90a", empty when not built
// The cuBLASLt that large products of programs go to; empty: there is none, our kernels compute all.
std::string library();
// Devices the driver reports; 0 without a driver, a device, or CUDA in the build.
int device_count();
bool has_qgemm(int bits);

// The weight as the fast kernels of the GPU read it, opaque: `out` holds prepacked_bytes(weight) bytes, 256-byte
// aligned. All pointers are on `device`; enqueued on `stream` (a cudaStream_t) and not waited for, as is `qgemm`.
std::int64_t prepacked_bytes(const PackedView& weight);
void prepack(const PackedView& weight, std::uint8_t* out, int device, std::uintptr_t stream);

// The float32 matrix [rows, columns] that the weight stands for, with the bits of DequantizeKernel; as above.
void dequantize(const PackedView& weight, float* out, int device, std::uintptr_t stream);

// Device memory that products work in, 256-byte aligned: its first 16 KiB are zeros before the first one, and one
// product uses it at a time (one stream).
struct Workspace {
    std::uint8_t* bytes;
    std::int64_t size;
};
// As QgemmTask; `panels` null or as `prepack` wrote them, `activations` null. `exact` takes any task; without panels,
// for float32 and where rows of x are no multiple of 16 bytes apart the result comes from a simple kernel. `int8` wants
// panels, and per channel at most kSpan inputs. With u = 2^-24 and exact activations
//
//   |y - exact| <= 3 (K + 2) u (sum |x||w| + |bias|)      and one rounding to the dtype of y,
//
// since tensor cores cut sums to 24 bits where float32 rounds them; the same bits from run to run on one device. int8
// has the bits of the CPU (above). Returns 0; or, having done nothing, how large a workspace it wants.
std::int64_t qgemm(const QgemmTask& task, DType dtype, Activation activation, Workspace workspace, int device,
                   std::uintptr_t stream);

// Attention outside programs, of operands on `device`, with tangents where `task.apart` says; enqueued on `stream` and
// not waited for. Returns 0; or, having done nothing, how many bytes of scratch it wants, 256-byte aligned.
std::int64_t attention(const AttentionTask& task, std::int64_t scratch_bytes, int device, std::uintptr_t stream);

}  // namespace cuda

}  // namespace tqs
