// Running maxima or minima along one axis and where they were, for all elements of the axes after it side by side. As
// in torch, an element replaces the one held when it is no worse (of equal ones the later is held) or NaN, and nothing
// but another NaN replaces a NaN. The tangent of a value is that of the element held.
#pragma once

#include "cpu/panel/scan.h"

namespace tqs::panel {

// Per column the extreme so far, and what is held of it.
template <class W>
static std::int64_t running_extreme_scratch(const RunningExtremeTask&) {
    return 2 * kScanColumns * static_cast<std::int64_t>(sizeof(double));
}

// out = what `taken(step, j)`, asked when an element becomes the extreme of its column, gave last. In float64, where
// numbers of both precisions and positions are exact.
template <bool adjacent, bool largest, class X, class Out, class Taken>
static void hold_extremes(const ScanColumns& columns, const X* x, Out* out, double* extreme, double* held,
                          const Taken& taken) {
    const std::int64_t x_stride = adjacent ? 1 : columns.x_stride, out_stride = adjacent ? 1 : columns.out_stride;
    for (std::int64_t step = 0; step < columns.steps; ++step) {
        const X* from = x + step * columns.x_step;
        Out* to = out + step * columns.out_step;
        for (std::int64_t j = 0; j < columns.count; ++j) {
            const auto value = static_cast<double>(from[j * x_stride]);
            const bool no_worse = largest ? value >= extreme[j] : value <= extreme[j];
            if (step == 0 || no_worse || value != value) {
                extreme[j] = value;
                held[j] = static_cast<double>(taken(step, j * x_stride));
            }
            to[j * out_stride] = static_cast<Out>(held[j]);
        }
    }
}

// One lane of one output. `take(x)` makes the `taken` of `hold_extremes` for columns at offset x of the primal.
template <class W, class Take>
static void running_extreme_lane(const RunningExtremeTask& task, const Operand& to, std::int64_t lane,
                                 const Take& take) {
    const Nest<2> rows = scan_rows(task.extent, task.x, to, task.axis);
    const std::int64_t item = precision_bytes(task.x.precision);
    const char* x = lane_bytes(task.x, task.extent.tangent ? 0 : lane, false);
    auto* const out = lane_data<typename W::Element>(to, lane, false);
    double* const extreme = static_cast<double*>(task.scratch);
    for_scan_columns(
        rows, task.x, to, task.axis,
        [&](const ScanColumns& columns, std::int64_t x_offset, std::int64_t out_offset, auto adjacent) {
            with_elements(x + x_offset * item, task.x.precision, [&](const auto* from) {
                const auto taken = take(columns, from, x_offset);
                double* const held = extreme + kScanColumns;
                if (task.largest) {
                    hold_extremes<adjacent.value, true>(columns, from, out + out_offset, extreme, held, taken);
                } else {
                    hold_extremes<adjacent.value, false>(columns, from, out + out_offset, extreme, held, taken);
                }
            });
        });
}

template <class W>
static void running_extreme_zeros(const RunningExtremeTask& task, const Operand& to, std::int64_t lane) {
    const Nest<2> rows = scan_rows(task.extent, task.x, to, task.axis);
    auto* const out = lane_data<typename W::Element>(to, lane, false);
    for_scan_columns(rows, task.x, to, task.axis,
                     [&](const ScanColumns& columns, std::int64_t, std::int64_t out_offset, auto) {
                         scan_zeros(columns, out + out_offset);
                     });
}

template <class W>
static void running_extreme(const RunningExtremeTask& task) {
    const auto value_of = [](const ScanColumns& columns, const auto* from, std::int64_t) {
        return [from, step_stride = columns.x_step](std::int64_t step, std::int64_t column) {
            return from[step * step_stride + column];
        };
    };
    const auto position_of = [](const ScanColumns&, const auto*, std::int64_t) {
        return [](std::int64_t step, std::int64_t) {
            return step;
        };
    };
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        if (!task.extent.tangent || lane == 0) {
            running_extreme_lane<W>(task, task.values, lane, value_of);
            running_extreme_lane<W>(task, task.positions, lane, position_of);
            continue;
        }
        running_extreme_zeros<W>(task, task.positions, lane);
        const char* change = lane_bytes(task.x, lane, true);
        if (!change) {
            running_extreme_zeros<W>(task, task.values, lane);
            continue;
        }
        running_extreme_lane<W>(task, task.values, lane,
                                [&](const ScanColumns& columns, const auto* from, std::int64_t offset) {
                                    // the tangent of an element lies where the element does
                                    return value_of(columns, reinterpret_cast<decltype(from)>(change) + offset, 0);
                                });
    }
}

}  // namespace tqs::panel
