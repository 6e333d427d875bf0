// Rows of the last axes to unit variance (and zero mean), as in layer and root-mean-square normalisation:
// y = r (x - mean), r = 1 / sqrt(mean((x - mean)^2) + epsilon); dy = r (dx - mean(dx) - y mean(y dx)). Without `center`
// both means of the first order are 0. Two passes: squares are of what is left after the mean.
#pragma once

#include "cpu/panel/functions.h"
#include "cpu/panel/row_access.h"

namespace tqs::panel {

static inline std::int64_t normalized_elements(const NormalizeTask& task) {
    std::int64_t elements = 1;
    for (int axis = task.x.rank - task.axes; axis < task.x.rank; ++axis) elements *= task.x.sizes[axis];
    return elements;
}

// Rows: x (or dx), y, its tangent.
template <class W>
static std::int64_t normalize_scratch(const NormalizeTask& task) {
    return 3 * padded_row<W>(normalized_elements(task)) * static_cast<std::int64_t>(sizeof(typename W::Element));
}

template <class W>
static void normalize(const NormalizeTask& task) {
    using T = typename W::Element;
    using V = typename W::Vector;
    const Operand* const operands[] = {&task.x, &task.out};
    const RowSet<W, 2> rows(task.extent, operands, task.axes);
    const std::int64_t elements = rows.elements();
    const T share = T(1) / static_cast<T>(elements);
    T* const x_row = static_cast<T*>(task.scratch);
    T* const y_row = x_row + padded_row<W>(elements);
    T* const tangent_row = y_row + padded_row<W>(elements);
    const T* y = nullptr;
    T inverse = 0;
    const auto mean_of = [&](const T* x) {
        return sum_row<W>(elements,
                          [&](std::int64_t i, std::int64_t count) { return load_some<W>(x + i, count, T(0)); }) *
               share;
    };
    const auto primal = [&](std::int64_t lane, const std::int64_t (&offsets)[2]) {
        char* base = lane_bytes(task.out, lane, false);
        T* out = rows.place(1, base, offsets, y_row);
        const T* x = rows.read(0, lane_bytes(task.x, lane, false), offsets, x_row);
        const T mean = task.center ? mean_of(x) : T(0);
        const V centre = W::broadcast(mean);
        const T square = sum_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
            const V left = load_some<W>(x + i, count, mean) - centre;
            return left * left;
        });
        inverse = T(1) / std::sqrt(square * share + static_cast<T>(task.epsilon));
        const V scale = W::broadcast(inverse);
        for_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
            store_some<W>(out + i, (load_some<W>(x + i, count, T(0)) - centre) * scale, count);
        });
        rows.finish(1, base, offsets, out);
        y = out;
    };
    const auto tangent = [&](std::int64_t lane, const std::int64_t (&offsets)[2]) {
        char* base = lane_bytes(task.out, lane, false);
        T* out = rows.place(1, base, offsets, tangent_row);
        const char* from = lane_bytes(task.x, lane, true);
        if (!from) {
            fill_run<W>(out, T(0), elements);
        } else {
            const T* dx = rows.read(0, from, offsets, x_row);
            const V mean = W::broadcast(task.center ? mean_of(dx) : T(0));
            const V slope =
                W::broadcast(share * sum_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
                                 return load_some<W>(y + i, count, T(0)) * load_some<W>(dx + i, count, T(0));
                             }));
            const V scale = W::broadcast(inverse);
            for_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
                const V centred = load_some<W>(dx + i, count, T(0)) - mean;
                const V kept = W::multiply_add(-load_some<W>(y + i, count, T(0)), slope, centred);
                store_some<W>(out + i, kept * scale, count);
            });
        }
        rows.finish(1, base, offsets, out);
    };
    for_lanes(task.extent, rows, primal, tangent);
}

}  // namespace tqs::panel
