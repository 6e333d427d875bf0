// The largest or smallest elements of the last axis, in order, and where they were. NaN counts as the largest, as in
// torch; of equal elements the one at the lower position comes first. The tangent of a value is that of its element.
#pragma once

#include "cpu/panel/row_access.h"

namespace tqs::panel {

// A row of x, the chosen values, and positions.
template <class W>
static std::int64_t top_k_scratch(const TopKTask& task) {
    const std::int64_t elements = task.x.sizes[task.x.rank - 1];
    return 2 * padded_row<W>(elements) * static_cast<std::int64_t>(sizeof(typename W::Element)) +
           elements * static_cast<std::int64_t>(sizeof(std::int32_t));
}

template <class W>
static void top_k(const TopKTask& task) {
    using T = typename W::Element;
    const Operand* const operands[] = {&task.x, &task.values, &task.positions};
    const RowSet<W, 3> rows(task.extent, operands, 1);
    const int last = task.x.rank - 1;
    const std::int64_t elements = task.x.sizes[last], count = task.count;
    T* const x_row = static_cast<T*>(task.scratch);
    T* const chosen = x_row + padded_row<W>(elements);
    auto* const order = reinterpret_cast<std::int32_t*>(chosen + padded_row<W>(elements));
    const auto store = [&](const Operand& out, std::int64_t lane, std::int64_t offset, const T* from) {
        store_run<W>(lane_bytes(out, lane, false) + offset * precision_bytes(out.precision), out.precision,
                     axis_stride(out, last), from, count);
    };
    const auto primal = [&](std::int64_t lane, const std::int64_t (&offsets)[3]) {
        const T* x = rows.read(0, lane_bytes(task.x, lane, false), offsets, x_row);
        const bool largest = task.largest;
        const auto before = [x, largest](std::int32_t i, std::int32_t j) {
            const T a = x[i], b = x[j];
            const bool a_nan = a != a, b_nan = b != b;
            if (a_nan != b_nan) return largest ? a_nan : b_nan;
            if (a == b || a_nan) return i < j;
            return largest ? a > b : a < b;
        };
        for (std::int64_t i = 0; i < elements; ++i) order[i] = static_cast<std::int32_t>(i);
        std::partial_sort(order, order + count, order + elements, before);
        for (std::int64_t i = 0; i < count; ++i) chosen[i] = x[order[i]];
        store(task.values, lane, offsets[1], chosen);
        for (std::int64_t i = 0; i < count; ++i) chosen[i] = static_cast<T>(order[i]);
        store(task.positions, lane, offsets[2], chosen);
    };
    const auto tangent = [&](std::int64_t lane, const std::int64_t (&offsets)[3]) {
        const char* from = lane_bytes(task.x, lane, true);
        const T* dx = from ? rows.read(0, from, offsets, x_row) : nullptr;
        for (std::int64_t i = 0; i < count; ++i) chosen[i] = dx ? dx[order[i]] : T(0);
        store(task.values, lane, offsets[1], chosen);
        fill_run<W>(chosen, T(0), count);
        store(task.positions, lane, offsets[2], chosen);
    };
    for_lanes(task.extent, rows, primal, tangent);
}

}  // namespace tqs::panel
