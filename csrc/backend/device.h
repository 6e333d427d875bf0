// A device: what it does beyond the kernels of backend/program_kernels.h, because a launch there costs as much as
// millions of operations and memory is far from the processor. Products take all lanes of a node at once, and what the
// processor does between nodes and between steps are tasks, too. Work is enqueued in order and not waited for.
//
// Operands and scratch lie on the device, tables on the host (as Operand::lanes), the step number on the device.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "backend/kernel_table.h"
#include "backend/place.h"

namespace tqs {

// One axis of a window that slides over x. Position o of the output reads positions o * stride + i * dilation -
// padding, i < taps; those outside [0, length) count as zero. x_stride: elements between positions of x.
struct WindowAxis {
    std::int64_t outputs, length, taps, stride, dilation, padding, x_stride;
};

// y[r, n] = sum_k x[r, k] w[n, k] + bias[n] over all lanes, samples and rows r of a layer.
//
// k runs over (channel, tap along the height, tap along the width), in that order; row r of a lane and sample over
// (batch, output along the height, along the width). A linear layer has axes of one tap whose outputs are its rows.
// With groups, outputs [g N / groups, (g + 1) N / groups) read channels [g C / groups, (g + 1) C / groups).
//
// ensemble  y_l = x_l W_l^T + b_l
// tangent   y_0 = x_0 W^T + b,  y_k = x_k W^T + x_0 W_k^T + b_k (x_k, W_k, b_k tangents, null or shared ones zero)
//
// An element is a sum in order of k by fused multiply-adds from 0, of the first product, then of the second; then the
// bias is added: the same bits whatever the other rows are. On tensor cores (values of 16 bits) the steps are sixteen
// positions of k each. Products that go to a library have its order, which may depend on how many rows there are, and
// where tf32 is allowed its operands.
struct LayerTask {
    Extent extent;
    Precision precision;
    Operand x, bias, out;         // bias: data null where absent; out [rows, N] contiguous per lane and sample
    const void* weight;           // [N, K], contiguous
    const void* const* weights;   // null, or per lane in place of `weight` (a tangent rollout: entry 0, then tangents)
    std::int64_t batch, x_batch;  // and elements between them
    WindowAxis height, width;
    std::int64_t channels, x_channel, outputs, groups;
    bool tf32 = false;        // whether a library may round operands of float32 to 11 bits
    void* scratch = nullptr;  // Device::layer_scratch
};

// y = x W^T + bias with a packed weight: packed_linear (program/ops/packed_linear.cpp).
struct PackedLayerTask {
    Extent extent;
    Operand x, bias, out;
    const PackedView* weight;  // arrays on the device
    const void* panels;        // as Device::prepack wrote them
    bool int8;
    void* scratch;
};

// out = x, one of them moved on by `x_step` or `out_step` elements for every step taken so far.
struct MoveTask {
    CopyTask copy;
    std::int64_t x_step, out_step;
    const std::int64_t* clock;
};

// to = from [elements], with noise at [begin, begin + count): element begin + i gets `scale` times element i of the
// stream of normal numbers (core/rng.h), summed in float64 and rounded once. The bits of the host's. May be in place.
struct NoiseTask {
    Precision precision;
    const void* from;
    void* to;
    std::int64_t elements, begin, count;
    double scale;
    std::uint64_t seed, stream;
};

// values = what the codes of the weights stand for, [rows, columns] both: the bits of `quantize` and `dequantize`.
struct RoundTask {
    const float* weights;  // finite
    float* values;
    std::int64_t rows, columns, group_size;
    int bits;
    bool symmetric, search;
};

// What leaves the step `clock` of a rollout (rollout/collect.h): lanes [first, first + lanes) of `output`
// [samples, block, channels], as value time = (began + clock) * block + b < values.
struct CollectTask {
    Operand output;
    bool tangent;
    std::int64_t first, lanes, samples, block, channels, block_stride, channel_stride, values;
    const void* reference;  // [values, samples, channels] of the output's precision; null: 0
    const double* scale;    // [channels]
    double* errors;         // [lanes, values, samples] or null
    void* outputs;  // rows [samples, channels], of a lane and value at lane * out_lane + time * out_time; or null
    std::int64_t out_lane, out_time;  // elements
    const std::int64_t* clock;
    std::int64_t began;  // steps before the clock began to count
};

// The end of an interval of Benettin's method (growth/stretching.h): per sample a state and K <= D columns of D
// numbers, frames [samples, 1 + K, D] of float64. Columns become orthonormal, as growth/orthonormalize.h has it; their
// signs are LAPACK's where a sample's frame fits the shared memory of a block. Samples that are not finite are set
// aside.
struct StretchTask {
    std::int64_t samples, directions, size;
    double* frames;
    void* scratch;
    std::int64_t step, block, blocks;  // the step just taken; of time
    double* logs;                      // [blocks, samples, K], added to; nan from `block` on in a sample set aside
    double* condition;                 // [samples], the largest so far; infinite where a frame was not finite
    std::int64_t* diverged;            // [samples], `step` where a state was not finite
    int* failed;                       // [samples], 1 where set aside
};

// Work that was recorded once and is then done again and again.
class Replay {
  public:
    virtual ~Replay() = default;
    virtual void run() = 0;
};

// Copies from the memory of this process, which is page-locked (cuda::page_lock), into places on the device, beside the
// work that is enqueued there. A number names a copy until the next of that number.
class Feed {
  public:
    virtual ~Feed() = default;
    // Copies once all that has been enqueued by now is done; meanwhile other work goes on.
    virtual void copy(int number, char* to, const void* from, std::int64_t bytes) = 0;
    // What is enqueued from now on begins after that copy.
    virtual void await(int number) = 0;
};

class Device : public Place {
  public:
    Device* device() override { return this; }

    // Bytes that `allocate` may still give.
    virtual std::int64_t available() = 0;

    // Bytes, from the sizes of the task alone.
    virtual std::int64_t layer_scratch(const LayerTask& task) = 0;
    virtual void layer(const LayerTask& task) = 0;
    virtual std::int64_t packed_layer_scratch(const PackedLayerTask& task) = 0;
    virtual void packed_layer(const PackedLayerTask& task) = 0;
    virtual void prepack(const PackedView& weight, void* panels) = 0;
    virtual void move(const MoveTask& task) = 0;
    virtual void collect(const CollectTask& task) = 0;
    virtual void advance(std::int64_t* clock) = 0;
    virtual void add_noise(const NoiseTask& task) = 0;
    // Copies numbered 0 ... numbers - 1. Null where nothing is copied. Not to be recorded.
    virtual std::unique_ptr<Feed> feed(int numbers) = 0;
    // Bytes, or -1 where this device does not take so many directions.
    virtual std::int64_t stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size) = 0;
    virtual void stretch(const StretchTask& task) = 0;

    // `work` enqueues the same work every time and has done so before. It is not done now.
    virtual std::unique_ptr<Replay> record(const std::function<void()>& work) = 0;
    // To be called between steps: waits until the device is but a few of them behind. Who is asked to stop, stops soon.
    virtual void pace() = 0;
};

namespace cuda {

// Begins after what is enqueued on `stream` (a cudaStream_t) of the caller.
std::unique_ptr<tqs::Device> open(int device, std::uintptr_t stream);
// The table of `open`'s kernels.
const ProgramKernels& program_kernels();

// Keeps memory of this process page-locked, so that a GPU reads it beside other work, until the last copy of what is
// returned is gone. Its whole pages: the others it may share with what is locked for itself. CUDA refuses to copy what
// is locked in part: to be called with all of an allocation. Null where that has no whole page, or somebody else has
// locked it.
std::shared_ptr<const void> page_lock(const void* memory, std::int64_t bytes, int device);

// On arrays of the caller on `device`, enqueued on its `stream`.
void add_noise(const NoiseTask& task, int device, std::uintptr_t stream);
void round_weights(const RoundTask& task, const ScaleRatios& ratios, int device, std::uintptr_t stream);

}  // namespace cuda

}  // namespace tqs
