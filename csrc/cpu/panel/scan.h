// Running sums and products along one axis, for all elements of the axes after it side by side. They run in float64
// whatever the precision, so that long sums keep the accuracy of their terms. Products: d(p x) = dp x + p dx, which
// needs no division and holds where an element is 0.
#pragma once

#include "cpu/panel/nest.h"
#include "cpu/panel/runs.h"

namespace tqs::panel {

inline constexpr std::int64_t kScanColumns = 512;  // side by side: 8 KiB of running values and tangents

template <class W>
static std::int64_t scan_scratch(const ScanTask&) {
    return 2 * kScanColumns * static_cast<std::int64_t>(sizeof(double));
}

// Columns side by side: where they are, in elements.
struct ScanColumns {
    std::int64_t steps, x_step, out_step;
    std::int64_t count, x_stride, out_stride;
};

template <class X, class Out>
static void scan_sum(const ScanColumns& columns, const X* x, Out* out, double* total) {
    std::fill_n(total, columns.count, 0.0);
    for (std::int64_t step = 0; step < columns.steps; ++step) {
        const X* from = x + step * columns.x_step;
        Out* to = out + step * columns.out_step;
        for (std::int64_t j = 0; j < columns.count; ++j) {
            total[j] += static_cast<double>(from[j * columns.x_stride]);
            to[j * columns.out_stride] = static_cast<Out>(total[j]);
        }
    }
}

// The product, or where `dx` is not null its tangent.
template <class X, class Out>
static void scan_product(const ScanColumns& columns, const X* x, const X* dx, Out* out, double* product,
                         double* tangent) {
    std::fill_n(product, columns.count, 1.0);
    std::fill_n(tangent, columns.count, 0.0);
    for (std::int64_t step = 0; step < columns.steps; ++step) {
        const X* from = x + step * columns.x_step;
        Out* to = out + step * columns.out_step;
        for (std::int64_t j = 0; j < columns.count; ++j) {
            const auto value = static_cast<double>(from[j * columns.x_stride]);
            if (dx) {
                const auto change = static_cast<double>(dx[step * columns.x_step + j * columns.x_stride]);
                tangent[j] = tangent[j] * value + product[j] * change;
            }
            product[j] *= value;
            to[j * columns.out_stride] = static_cast<Out>(dx ? tangent[j] : product[j]);
        }
    }
}

// One lane; `x` null: zeros; `dx` null: not a tangent of a product.
template <class W>
static void scan_lane(const ScanTask& task, const Nest<2>& outer, const Nest<2>& inner, const char* x, const char* dx,
                      typename W::Element* out) {
    const std::int64_t item = precision_bytes(task.x.precision);
    double* const running = static_cast<double*>(task.scratch);
    ScanColumns columns{.steps = task.x.sizes[task.axis],
                        .x_step = axis_stride(task.x, task.axis),
                        .out_step = axis_stride(task.out, task.axis),
                        .count = 0,
                        .x_stride = inner.strides[0][inner.rank - 1],
                        .out_stride = inner.strides[1][inner.rank - 1]};
    const auto run = [&](std::int64_t x_offset, std::int64_t out_offset) {
        typename W::Element* to = out + out_offset;
        if (!x) {
            for (std::int64_t step = 0; step < columns.steps; ++step) {
                for (std::int64_t j = 0; j < columns.count; ++j) {
                    to[step * columns.out_step + j * columns.out_stride] = 0;
                }
            }
            return;
        }
        with_elements(x + x_offset * item, task.x.precision, [&](const auto* from) {
            if (task.product) {
                const auto* change = dx ? reinterpret_cast<decltype(from)>(dx + x_offset * item) : nullptr;
                scan_product(columns, from, change, to, running, running + kScanColumns);
            } else {
                scan_sum(columns, from, to, running);
            }
        });
    };
    const std::int64_t outer_rows = outer.rows(), inner_rows = inner.rows();
    Row<2> row(outer, 0);
    for (std::int64_t r = 0; r < outer_rows; ++r, row.advance()) {
        for (std::int64_t i = 0; i < outer.inner(); ++i) {
            Row<2> part(inner, 0);
            for (std::int64_t q = 0; q < inner_rows; ++q, part.advance()) {
                for (std::int64_t first = 0; first < inner.inner(); first += kScanColumns) {
                    columns.count = std::min(kScanColumns, inner.inner() - first);
                    run(row.offset(0) + i * outer.strides[0][outer.rank - 1] + part.offset(0) +
                            first * columns.x_stride,
                        row.offset(1) + i * outer.strides[1][outer.rank - 1] + part.offset(1) +
                            first * columns.out_stride);
                }
            }
        }
    }
}

template <class W>
static void scan(const ScanTask& task) {
    const Operand* const operands[] = {&task.x, &task.out};
    Nest<2> outer, inner;
    outer.add(task.extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < task.x.rank; ++axis) {
        if (axis == task.axis) continue;
        (axis < task.axis ? outer : inner).add(task.x.sizes[axis], 2, [&](int k) {
            return axis_stride(*operands[k], axis);
        });
    }
    outer.close(2);
    inner.close(2);
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        auto* out = lane_data<typename W::Element>(task.out, lane, false);
        const char* x = lane_bytes(task.x, lane, task.extent.tangent);
        const bool product_tangent = task.extent.tangent && lane > 0 && task.product && x;
        scan_lane<W>(task, outer, inner, product_tangent ? lane_bytes(task.x, 0, false) : x,
                     product_tangent ? x : nullptr, out);
    }
}

}  // namespace tqs::panel
