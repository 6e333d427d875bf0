// Depthwise convolution over the multiply_add of an ISA (`P`): plain loops along whichever axis of the output has
// adjacent elements, which the compiler turns into vectors. Taps come in index order and those that fall on the padding
// are left out, so that an element's bits do not depend on the layout.
#pragma once

#include <algorithm>

#include "backend/program_kernels.h"

namespace tqs::panel {

// One sample [C, L] -> [C * multiplier, L'].
struct DepthwiseShape {
    std::int64_t outputs, length, positions, taps;  // C * multiplier, L, L'
    std::int64_t multiplier, stride, dilation, padding;
    std::int64_t x_channel, x_position, y_channel, y_position, w_channel, w_tap;
};

static inline DepthwiseShape depthwise_shape(const DepthwiseTask& task) {
    const int c = task.x.rank - 2, l = task.x.rank - 1;
    return {task.out.sizes[c],   task.x.sizes[l],     task.out.sizes[l],      task.weight.sizes[2],  task.multiplier,
            task.stride,         task.dilation,       task.padding,           task.x.strides[c],     task.x.strides[l],
            task.out.strides[c], task.out.strides[l], task.weight.strides[0], task.weight.strides[2]};
}

static inline bool channels_adjacent(const DepthwiseShape& shape) {
    return shape.y_channel == 1 && shape.outputs > 1;
}

// Whether x is to be laid out as [L, C * multiplier] first.
static inline bool needs_channels_last(const DepthwiseShape& shape) {
    return channels_adjacent(shape) && (shape.x_channel != 1 || shape.multiplier > 1);
}

// y += w * x, channel after channel along adjacent elements. w as [taps, C * multiplier]; x with adjacent channels.
template <class P>
static void add_channels(const DepthwiseShape& shape, const typename P::Element* x, std::int64_t x_position,
                         const typename P::Element* w, typename P::Element* y) {
    using Element = typename P::Element;
    for (std::int64_t l = 0; l < shape.positions; ++l) {
        Element* __restrict out = y + l * shape.y_position;
        for (std::int64_t i = 0; i < shape.taps; ++i) {
            const std::int64_t at = l * shape.stride + i * shape.dilation - shape.padding;
            if (at < 0 || at >= shape.length) continue;
            const Element* __restrict from = x + at * x_position;
            const Element* __restrict weight = w + i * shape.outputs;
            for (std::int64_t c = 0; c < shape.outputs; ++c) out[c] = P::multiply_add(from[c], weight[c], out[c]);
        }
    }
}

// y += w * x, position after position. Any strides.
template <class P>
static void add_positions(const DepthwiseShape& shape, const typename P::Element* x, const typename P::Element* w,
                          typename P::Element* y) {
    using Element = typename P::Element;
    for (std::int64_t c = 0; c < shape.outputs; ++c) {
        const Element* __restrict from = x + c / shape.multiplier * shape.x_channel;
        Element* __restrict out = y + c * shape.y_channel;
        for (std::int64_t i = 0; i < shape.taps; ++i) {
            const Element weight = w[c * shape.w_channel + i * shape.w_tap];
            // Positions l with 0 <= l * stride + offset < length.
            const std::int64_t offset = i * shape.dilation - shape.padding;
            const std::int64_t begin = offset >= 0 ? 0 : (-offset + shape.stride - 1) / shape.stride;
            const std::int64_t last = shape.length - 1 - offset;
            const std::int64_t end = last < 0 ? 0 : std::min(shape.positions, last / shape.stride + 1);
            for (std::int64_t l = begin; l < end; ++l) {
                Element& sum = out[l * shape.y_position];
                sum = P::multiply_add(from[(l * shape.stride + offset) * shape.x_position], weight, sum);
            }
        }
    }
}

template <class P>
static std::int64_t depthwise_scratch(const DepthwiseTask& task) {
    const DepthwiseShape shape = depthwise_shape(task);
    if (!channels_adjacent(shape)) return 0;
    const std::int64_t elements =
        shape.outputs * (shape.taps + (needs_channels_last(shape) ? shape.length : std::int64_t{0}));
    return elements * static_cast<std::int64_t>(sizeof(typename P::Element));
}

// Calls body(element of `operand` for each leading index of x and out): `body(x offset, y offset)`.
template <class Body>
static void for_each_leading(const DepthwiseTask& task, const Body& body) {
    std::int64_t index[kMaxRank] = {};
    for (;;) {
        std::int64_t x = 0, y = 0;
        for (int axis = 0; axis < task.x.rank - 2; ++axis) {
            x += index[axis] * task.x.strides[axis];
            y += index[axis] * task.out.strides[axis];
        }
        body(x, y);
        int axis = task.x.rank - 3;
        while (axis >= 0 && ++index[axis] == task.out.sizes[axis]) index[axis--] = 0;
        if (axis < 0) return;
    }
}

// y of one lane += w * x for every sample.
template <class P>
static void add_samples(const DepthwiseTask& task, const DepthwiseShape& shape, const typename P::Element* x,
                        const typename P::Element* w, typename P::Element* y) {
    using Element = typename P::Element;
    auto* taps = static_cast<Element*>(task.scratch);
    Element* last = taps + shape.taps * shape.outputs;
    const bool adjacent = channels_adjacent(shape), convert = needs_channels_last(shape);
    for (std::int64_t i = 0; i < shape.taps && adjacent; ++i) {
        for (std::int64_t c = 0; c < shape.outputs; ++c) {
            taps[i * shape.outputs + c] = w[c * shape.w_channel + i * shape.w_tap];
        }
    }
    for (std::int64_t sample = 0; sample < task.extent.samples; ++sample) {
        for_each_leading(task, [&](std::int64_t x_offset, std::int64_t y_offset) {
            const Element* from = x + sample * task.x.sample_stride + x_offset;
            Element* to = y + sample * task.out.sample_stride + y_offset;
            if (!adjacent) return add_positions<P>(shape, from, w, to);
            if (!convert) return add_channels<P>(shape, from, shape.x_position, taps, to);
            for (std::int64_t c = 0; c < shape.outputs; ++c) {
                const Element* channel = from + c / shape.multiplier * shape.x_channel;
                for (std::int64_t l = 0; l < shape.length; ++l) {
                    last[l * shape.outputs + c] = channel[l * shape.x_position];
                }
            }
            add_channels<P>(shape, last, shape.outputs, taps, to);
        });
    }
}

// What sums start from: the bias (stride `stride`), or 0.
template <class Element>
static void start(const DepthwiseTask& task, const DepthwiseShape& shape, const Element* bias, Element* y) {
    const std::int64_t stride = task.bias.strides[0];
    for (std::int64_t sample = 0; sample < task.extent.samples; ++sample) {
        for_each_leading(task, [&](std::int64_t, std::int64_t offset) {
            Element* to = y + sample * task.out.sample_stride + offset;
            for (std::int64_t c = 0; c < shape.outputs; ++c) {
                const Element value = bias ? bias[c * stride] : Element(0);
                for (std::int64_t l = 0; l < shape.positions; ++l) {
                    to[c * shape.y_channel + l * shape.y_position] = value;
                }
            }
        });
    }
}

template <class P>
static void depthwise(const DepthwiseTask& task) {
    using Element = typename P::Element;
    const DepthwiseShape shape = depthwise_shape(task);
    const bool tangent = task.extent.tangent;
    const auto* x = lane_data<const Element>(task.x, 0, tangent);
    const auto* weight = lane_data<const Element>(task.weight, 0, tangent);
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        auto* y = lane_data<Element>(task.out, lane, false);
        start(task, shape, task.bias.data ? lane_data<const Element>(task.bias, lane, tangent) : nullptr, y);
        const auto* own_x = lane_data<const Element>(task.x, lane, tangent);
        const auto* own_weight = lane_data<const Element>(task.weight, lane, tangent);
        if (own_x) add_samples<P>(task, shape, own_x, tangent ? weight : own_weight, y);
        if (tangent && lane > 0 && own_weight) add_samples<P>(task, shape, x, own_weight, y);
    }
}

}  // namespace tqs::panel
