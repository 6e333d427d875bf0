// Running sums and products along one axis, for all elements of the axes after it side by side. They run in float64
// whatever the precision, so that long sums keep the accuracy of their terms. Products: d(p x) = dp x + p dx, which
// needs no division and holds where an element is 0.
#pragma once

#include "cpu/panel/nest.h"
#include "cpu/panel/runs.h"

namespace tqs::panel {

inline constexpr std::int64_t kScanColumns = 512;  // side by side: 8 KiB of running values and tangents
// Of rows that are scanned along themselves, side by side: enough to hide the latency of an addition, few enough that
// their lines of memory stay in the cache.
inline constexpr std::int64_t kScanRows = 8;

template <class W>
static std::int64_t scan_scratch(const ScanTask&) {
    return 2 * kScanColumns * static_cast<std::int64_t>(sizeof(double));
}

// Columns side by side: where they are, in elements.
struct ScanColumns {
    std::int64_t steps, x_step, out_step;
    std::int64_t count, x_stride, out_stride;
};

template <bool adjacent, class X, class Out>
static void scan_sum(const ScanColumns& columns, const X* x, Out* out, double* total) {
    const std::int64_t x_stride = adjacent ? 1 : columns.x_stride, out_stride = adjacent ? 1 : columns.out_stride;
    std::fill_n(total, columns.count, 0.0);
    for (std::int64_t step = 0; step < columns.steps; ++step) {
        const X* from = x + step * columns.x_step;
        Out* to = out + step * columns.out_step;
        for (std::int64_t j = 0; j < columns.count; ++j) {
            total[j] += static_cast<double>(from[j * x_stride]);
            to[j * out_stride] = static_cast<Out>(total[j]);
        }
    }
}

// The product, or where `dx` is not null its tangent.
template <bool adjacent, class X, class Out>
static void scan_product(const ScanColumns& columns, const X* x, const X* dx, Out* out, double* product,
                         double* tangent) {
    const std::int64_t x_stride = adjacent ? 1 : columns.x_stride, out_stride = adjacent ? 1 : columns.out_stride;
    std::fill_n(product, columns.count, 1.0);
    std::fill_n(tangent, columns.count, 0.0);
    for (std::int64_t step = 0; step < columns.steps; ++step) {
        const X* from = x + step * columns.x_step;
        const X* change = dx ? dx + step * columns.x_step : nullptr;
        Out* to = out + step * columns.out_step;
        if (change) {
            for (std::int64_t j = 0; j < columns.count; ++j) {
                const auto value = static_cast<double>(from[j * x_stride]);
                tangent[j] = tangent[j] * value + product[j] * static_cast<double>(change[j * x_stride]);
                product[j] *= value;
                to[j * out_stride] = static_cast<Out>(tangent[j]);
            }
        } else {
            for (std::int64_t j = 0; j < columns.count; ++j) {
                product[j] *= static_cast<double>(from[j * x_stride]);
                to[j * out_stride] = static_cast<Out>(product[j]);
            }
        }
    }
}

// What is scanned separately: the loops over all but `axis`, the innermost over what is scanned side by side.
static inline Nest<2> scan_rows(const Extent& extent, const Operand& x, const Operand& out, int axis) {
    const Operand* const operands[] = {&x, &out};
    Nest<2> rows;
    rows.add(extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int other = 0; other < x.rank; ++other) {
        if (other == axis) continue;
        rows.add(x.sizes[other], 2, [&](int k) { return axis_stride(*operands[k], other); });
    }
    rows.close(2);
    return rows;
}

// Calls body(columns, x offset, out offset, adjacent) for as many columns at a time as are side by side; `adjacent`, a
// constant, tells whether their elements are.
template <class Body>
static void for_scan_columns(const Nest<2>& rows, const Operand& x, const Operand& out, int axis, const Body& body) {
    ScanColumns columns{.steps = x.sizes[axis],
                        .x_step = axis_stride(x, axis),
                        .out_step = axis_stride(out, axis),
                        .count = 0,
                        .x_stride = rows.strides[0][rows.rank - 1],
                        .out_stride = rows.strides[1][rows.rank - 1]};
    const bool adjacent = columns.x_stride == 1 && columns.out_stride == 1;
    const std::int64_t most = adjacent ? kScanColumns : kScanRows;
    const std::int64_t passes = rows.rows();
    Row<2> row(rows, 0);
    for (std::int64_t pass = 0; pass < passes; ++pass, row.advance()) {
        for (std::int64_t first = 0; first < rows.inner(); first += most) {
            columns.count = std::min(most, rows.inner() - first);
            const std::int64_t from = row.offset(0) + first * columns.x_stride;
            const std::int64_t to = row.offset(1) + first * columns.out_stride;
            if (adjacent) {
                body(columns, from, to, std::true_type{});
            } else {
                body(columns, from, to, std::false_type{});
            }
        }
    }
}

template <class T>
static void scan_zeros(const ScanColumns& columns, T* out) {
    for (std::int64_t step = 0; step < columns.steps; ++step) {
        for (std::int64_t j = 0; j < columns.count; ++j) out[step * columns.out_step + j * columns.out_stride] = 0;
    }
}

// One lane; `x` null: zeros; `dx` null: not a tangent of a product.
template <class W>
static void scan_lane(const ScanTask& task, const Nest<2>& rows, const char* x, const char* dx,
                      typename W::Element* out) {
    const std::int64_t item = precision_bytes(task.x.precision);
    double* const running = static_cast<double*>(task.scratch);
    for_scan_columns(rows, task.x, task.out, task.axis,
                     [&](const ScanColumns& columns, std::int64_t x_offset, std::int64_t out_offset, auto adjacent) {
                         typename W::Element* const to = out + out_offset;
                         if (!x) return scan_zeros(columns, to);
                         with_elements(x + x_offset * item, task.x.precision, [&](const auto* from) {
                             const auto* change = dx ? reinterpret_cast<decltype(from)>(dx + x_offset * item) : nullptr;
                             if (task.product) {
                                 scan_product<adjacent.value>(columns, from, change, to, running,
                                                              running + kScanColumns);
                             } else {
                                 scan_sum<adjacent.value>(columns, from, to, running);
                             }
                         });
                     });
}

template <class W>
static void scan(const ScanTask& task) {
    const Nest<2> rows = scan_rows(task.extent, task.x, task.out, task.axis);
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        auto* out = lane_data<typename W::Element>(task.out, lane, false);
        const char* x = lane_bytes(task.x, lane, task.extent.tangent);
        const bool product_tangent = task.extent.tangent && lane > 0 && task.product && x;
        scan_lane<W>(task, rows, product_tangent ? lane_bytes(task.x, 0, false) : x, product_tangent ? x : nullptr,
                     out);
    }
}

}  // namespace tqs::panel
