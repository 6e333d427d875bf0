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

// One lane; `x` null: zeros; `dx` null: not a tangent of a product. `rows` runs over all that is scanned separately,
// innermost what is scanned side by side.
template <class W>
static void scan_lane(const ScanTask& task, const Nest<2>& rows, std::int64_t most, const char* x, const char* dx,
                      typename W::Element* out) {
    const std::int64_t item = precision_bytes(task.x.precision);
    double* const running = static_cast<double*>(task.scratch);
    ScanColumns columns{.steps = task.x.sizes[task.axis],
                        .x_step = axis_stride(task.x, task.axis),
                        .out_step = axis_stride(task.out, task.axis),
                        .count = 0,
                        .x_stride = rows.strides[0][rows.rank - 1],
                        .out_stride = rows.strides[1][rows.rank - 1]};
    const auto run = [&](std::int64_t x_offset, typename W::Element* to) {
        if (!x) {
            for (std::int64_t step = 0; step < columns.steps; ++step) {
                for (std::int64_t j = 0; j < columns.count; ++j) {
                    to[step * columns.out_step + j * columns.out_stride] = 0;
                }
            }
            return;
        }
        with_elements(x + x_offset * item, task.x.precision, [&](const auto* from) {
            const auto* change = dx ? reinterpret_cast<decltype(from)>(dx + x_offset * item) : nullptr;
            const auto scan_columns = [&](auto adjacent) {
                if (task.product) {
                    scan_product<adjacent.value>(columns, from, change, to, running, running + kScanColumns);
                } else {
                    scan_sum<adjacent.value>(columns, from, to, running);
                }
            };
            if (columns.x_stride == 1 && columns.out_stride == 1) {
                scan_columns(std::true_type{});
            } else {
                scan_columns(std::false_type{});
            }
        });
    };
    const std::int64_t passes = rows.rows();
    Row<2> row(rows, 0);
    for (std::int64_t pass = 0; pass < passes; ++pass, row.advance()) {
        for (std::int64_t first = 0; first < rows.inner(); first += most) {
            columns.count = std::min(most, rows.inner() - first);
            run(row.offset(0) + first * columns.x_stride, out + row.offset(1) + first * columns.out_stride);
        }
    }
}

template <class W>
static void scan(const ScanTask& task) {
    const Operand* const operands[] = {&task.x, &task.out};
    Nest<2> rows;
    rows.add(task.extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < task.x.rank; ++axis) {
        if (axis == task.axis) continue;
        rows.add(task.x.sizes[axis], 2, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    rows.close(2);
    const bool adjacent = rows.strides[0][rows.rank - 1] == 1 && rows.strides[1][rows.rank - 1] == 1;
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        auto* out = lane_data<typename W::Element>(task.out, lane, false);
        const char* x = lane_bytes(task.x, lane, task.extent.tangent);
        const bool product_tangent = task.extent.tangent && lane > 0 && task.product && x;
        scan_lane<W>(task, rows, adjacent ? kScanColumns : kScanRows,
                     product_tangent ? lane_bytes(task.x, 0, false) : x, product_tangent ? x : nullptr, out);
    }
}

}  // namespace tqs::panel
