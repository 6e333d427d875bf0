// Depthwise convolution along the last axis, a thread per output element, side by side along whichever axis of the
// output has adjacent elements: the few inputs of a thread are its neighbours', too, and come from the first-level
// cache. Sums run over the taps in order and leave out those on the padding. Tangent: dbias + dx w + x dw.
#pragma once

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

inline constexpr int kDepthwiseThreads = 256;

struct DepthwiseArgument {
    Loops<2> loops;  // of out, x without its last axes: samples, leading axes
    Lanes x, weight, bias, out;
    Divider inner, middle;  // sizes of out's last two axes, [filters, positions] or the other way round
    bool filters_inside;
    std::uint32_t multiplier, taps;
    std::int64_t x_length;  // L
    std::int64_t stride, padding, dilation;
    std::int64_t out_channel, out_step, x_channel, x_step;
    std::int64_t weight_channel, weight_tap, bias_channel;
    bool biased, tangent;
    std::int64_t lanes;
};

// Stored: as all operands are.
template <class Stored>
__global__ void __launch_bounds__(kDepthwiseThreads) depthwise_convolution(const DepthwiseArgument a) {
    begin_kernel();
    using T = Computed<Stored>;
    const std::uint32_t element = blockIdx.x * kDepthwiseThreads + threadIdx.x;
    const std::uint32_t row = a.inner.quotient(element), outer = a.middle.quotient(row);
    if (outer >= a.loops.count) return;
    const std::uint32_t inside = element - row * a.inner.divisor, between = row - outer * a.middle.divisor;
    const std::int64_t position = a.filters_inside ? between : inside, filter = a.filters_inside ? inside : between;
    const std::int64_t to = a.loops.offset(0, outer) + filter * a.out_channel + position * a.out_step;
    const std::int64_t from = a.loops.offset(1, outer) + filter / a.multiplier * a.x_channel;
    const std::int64_t first = position * a.stride - a.padding;
    const std::int64_t weight_at = filter * a.weight_channel, bias_at = filter * a.bias_channel;
    const auto add = [&](T sum, const char* x, const char* weight) {
        if (!x || !weight) return sum;
        for (std::uint32_t tap = 0; tap < a.taps; ++tap) {
            const std::int64_t at = first + tap * a.dilation;
            if (at < 0 || at >= a.x_length) continue;
            sum = fused(number(reinterpret_cast<const Stored*>(x)[from + at * a.x_step]),
                        number(reinterpret_cast<const Stored*>(weight)[weight_at + tap * a.weight_tap]), sum);
        }
        return sum;
    };
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        const bool moved = a.tangent && lane > 0;
        const std::int64_t base = moved ? 0 : lane;
        const char* bias = a.biased ? a.bias.lane(lane, a.tangent) : nullptr;
        T sum = bias ? number(reinterpret_cast<const Stored*>(bias)[bias_at]) : T(0);
        sum = add(sum, a.x.lane(lane, a.tangent), a.weight.lane(base, false));
        if (moved) sum = add(sum, a.x.lane(0, false), a.weight.lane(lane, true));
        reinterpret_cast<Stored*>(a.out.lane(lane, false))[to] = rounded<Stored>(sum);
    }
}

}  // namespace tqs::cuda
