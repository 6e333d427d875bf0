// What happens between the steps of a rollout on the device, all by the number of the step that it counts.
#pragma once

#include <limits>

#include "backend/device.h"
#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

inline constexpr int kStepThreads = 256;

// MoveTask: a copy whose source or target is further on by some elements per step.
struct MoveArgument {
    Loops<2> loops;  // samples and axes, of out, x
    Lanes out, x;
    bool tangent;
    std::int64_t lanes, out_step, x_step;
    const std::int64_t* clock;
};

static __global__ void __launch_bounds__(kStepThreads) move(const MoveArgument a) {
    begin_kernel();
    const std::uint32_t element = blockIdx.x * kStepThreads + threadIdx.x;
    if (element >= a.loops.count) return;
    const std::int64_t step = *a.clock;
    const std::int64_t to = a.loops.offset(0, element) + step * a.out_step;
    const std::int64_t from = a.loops.offset(1, element) + step * a.x_step;
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        const char* x = a.x.lane(lane, a.tangent);
        char* out = a.out.lane(lane, false);
        if (a.x.precision == Precision::float64) {
            store(out, a.out.precision, to, x ? load<double>(x, a.x.precision, from) : 0.0);
        } else {
            store(out, a.out.precision, to, x ? load<float>(x, a.x.precision, from) : 0.0f);
        }
    }
}

struct CollectArgument {
    CollectTask task;
    Lanes output;
};

// A warp per lane, value and sample. Its lanes add every 32nd channel, then each other's sums as a butterfly: the order
// depends on the number of channels only. (Of 4 blocks at a time: with 5 a register is spilled on sm_90a.)
static __global__ void __launch_bounds__(kStepThreads, 4) collect(const CollectArgument argument) {
    begin_kernel();
    constexpr int kWarp = 32;
    const CollectTask& t = argument.task;
    const int thread = static_cast<int>(threadIdx.x) % kWarp;
    const std::int64_t number =
        (static_cast<std::int64_t>(blockIdx.x) * kStepThreads + static_cast<std::int64_t>(threadIdx.x)) / kWarp;
    const std::int64_t each = t.block * t.samples, lane = number / each, value = number % each / t.samples;
    const std::int64_t time = (t.began + *t.clock) * t.block + value;
    if (lane >= t.lanes || time >= t.values) return;
    const std::int64_t sample = number % t.samples;
    const Precision precision = t.output.precision;
    const char* y = argument.output.lane(t.first + lane, t.tangent);
    const std::int64_t at = sample * t.output.sample_stride + value * t.block_stride;
    const std::int64_t row = time * t.samples + sample;  // of a lane
    if (t.outputs) {
        auto* out = static_cast<char*>(t.outputs);
        const std::int64_t to = lane * t.out_lane + time * t.out_time + sample * t.channels;
        for (std::int64_t c = thread; c < t.channels; c += kWarp) {
            const double element = y ? load<double>(y, precision, at + c * t.channel_stride) : 0.0;
            store(out, precision, to + c, element);
        }
    }
    if (!t.errors) return;
    double sum = 0.0;
    for (std::int64_t c = thread; y && c < t.channels; c += kWarp) {
        const auto* reference = static_cast<const char*>(t.reference);
        const double expected = reference ? load<double>(reference, precision, row * t.channels + c) : 0.0;
        const double error = (load<double>(y, precision, at + c * t.channel_stride) - expected) / t.scale[c];
        sum = fused(error, error, sum);
    }
    for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (thread != 0) return;
    const double mean = sum / static_cast<double>(t.channels);
    const double most = std::numeric_limits<double>::max();
    t.errors[lane * t.values * t.samples + row] = mean <= most ? mean : std::numeric_limits<double>::infinity();
}

struct AdvanceArgument {
    std::int64_t* clock;
};

static __global__ void advance(const AdvanceArgument a) {
    begin_kernel();
    if (threadIdx.x == 0) *a.clock += 1;
}

}  // namespace tqs::cuda
