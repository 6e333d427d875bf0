// What linear and convolution share: a product of activations with a packed constant, over the lanes of a tile.
//
//   ensemble  y_l = x_l W_l^T + b_l: one product per run of lanes with the same weight and bias; where the lanes share
//             x too, one lane is computed and copied.
//   tangent   y_0 = x_0 W^T + b,  y_k = x_k W^T + x_0 W_k^T + b_k (x_k, W_k, b_k tangents): one product of all lanes
//             with W, whose rows start from b, b_k or 0; then those with W_k add to it.
#pragma once

#include <cstring>

#include "program/op.h"

namespace tqs::ops {

// Lanes [y_lane, y_lane + lanes) of y from as many of x that begin at x_lane.
struct LaneProduct {
    std::int64_t x_lane, y_lane, lanes;
    const void* panels;
    const void* bias;  // [N] or null
    bool accumulate;
};

inline const ProductKernels& product_kernels(const Frame& frame) {
    return frame.kernels->products[static_cast<int>(frame.out[0].precision)];
}

inline char* lane_bytes(const Operand& operand, std::int64_t lane) {
    return lane_data<char>(operand, 0, false) + lane * operand.lane_stride * precision_bytes(operand.precision);
}

// The bias of a lane or null, where `bias` may be absent.
inline const void* bias_of(const Operand& bias, std::int64_t lane, bool tangent) {
    if (!bias.data) return nullptr;
    if (bias.lanes) return bias.lanes[lane];
    return tangent && lane > 0 ? nullptr : bias.data;
}

inline const void* panels_of(const Panels& panels, std::int64_t lane) {
    return panels.lanes ? panels.lanes[lane] : panels.shared;
}

// Calls product(LaneProduct) so that together they are what the table above says. Of every lane and sample y is one run
// of rows [N]; runs lie apart where y is cut to some rows.
template <class Product>
void for_each_product(const Frame& frame, const Operand& x, const Operand& bias, std::int64_t n,
                      const Product& product) {
    const Operand& y = frame.out[0];
    const std::int64_t lanes = frame.extent.lanes;
    const std::int64_t row = n * precision_bytes(y.precision);
    const std::int64_t sample_step = y.sample_stride * precision_bytes(y.precision);
    std::int64_t run = precision_bytes(y.precision);
    for (int axis = 0; axis < y.rank; ++axis) run *= y.sizes[axis];
    if (!frame.extent.tangent) {
        for (std::int64_t first = 0, end; first < lanes; first = end) {
            const void* panels = panels_of(frame.panels, first);
            const void* own_bias = bias_of(bias, first, false);
            end = first + 1;
            while (end < lanes && panels_of(frame.panels, end) == panels && bias_of(bias, end, false) == own_bias) {
                ++end;
            }
            product(LaneProduct{first, first, is_shared(x) ? 1 : end - first, panels, own_bias, false});
            for (std::int64_t lane = first + 1; lane < end && is_shared(x); ++lane) {
                for (std::int64_t sample = 0; sample < frame.extent.samples; ++sample) {
                    std::memcpy(lane_bytes(y, lane) + sample * sample_step, lane_bytes(y, first) + sample * sample_step,
                                static_cast<std::size_t>(run));
                }
            }
        }
        return;
    }
    const bool plain = !bias.data && !is_shared(x);
    for (std::int64_t lane = 0; lane < lanes && !plain; ++lane) {
        const void* start = bias_of(bias, lane, true);
        for (std::int64_t sample = 0; sample < frame.extent.samples; ++sample) {
            char* out = lane_bytes(y, lane) + sample * sample_step;
            if (!start) std::memset(out, 0, static_cast<std::size_t>(run));
            for (std::int64_t at = 0; start && at < run; at += row) {
                std::memcpy(out + at, start, static_cast<std::size_t>(row));
            }
        }
    }
    product(LaneProduct{0, 0, is_shared(x) ? 1 : lanes, panels_of(frame.panels, 0), nullptr, !plain});
    for (std::int64_t lane = 1; lane < lanes && frame.panels.lanes; ++lane) {
        if (!frame.panels.lanes[lane]) continue;
        product(LaneProduct{0, lane, 1, frame.panels.lanes[lane], nullptr, true});
    }
}

// An axis along which the rows of a product lie; steps in elements.
struct RowAxis {
    std::int64_t size, x, y;
};

// The product `task` (its operands, N, K and start) for every row that `axes`, outermost first, span from task.a and
// task.y. Axes are joined where their steps allow, so that a kernel call has as many rows as possible.
template <std::size_t count>
void multiply_rows(const ProductKernels& kernels, Precision precision, const RowAxis (&axes)[count], GemmTask task) {
    RowAxis joined[count + 2];
    std::size_t used = 0;
    for (const RowAxis& axis : axes) {
        if (axis.size == 1) continue;
        if (used > 0 && joined[used - 1].x == axis.size * axis.x && joined[used - 1].y == axis.size * axis.y) {
            joined[used - 1] = {joined[used - 1].size * axis.size, axis.x, axis.y};
        } else {
            joined[used++] = axis;
        }
    }
    while (used < 2) joined[used++] = {1, 0, 0};
    const RowAxis& outer = joined[used - 2];
    const RowAxis& inner = joined[used - 1];
    task.outer = outer.size, task.a_outer = outer.x, task.y_outer = outer.y;
    task.inner = inner.size, task.a_inner = inner.x, task.y_inner = inner.y;
    const auto* a = static_cast<const char*>(task.a);
    auto* y = static_cast<char*>(task.y);
    std::int64_t index[count + 2] = {};
    for (;;) {
        std::int64_t at_x = 0, at_y = 0;
        for (std::size_t i = 0; i + 2 < used; ++i) at_x += index[i] * joined[i].x, at_y += index[i] * joined[i].y;
        task.a = a + at_x * precision_bytes(precision);
        task.y = y + at_y * precision_bytes(precision);
        kernels.gemm(task);
        std::size_t axis = used - 2;
        while (axis > 0 && ++index[axis - 1] == joined[axis - 1].size) index[--axis] = 0;
        if (axis == 0) return;
    }
}

}  // namespace tqs::ops
