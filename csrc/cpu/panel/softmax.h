// softmax and its logarithm along the last axis. With p = softmax(x): dp = p (dx - sum p dx), d log p = dx - sum p dx.
#pragma once

#include "cpu/panel/functions.h"
#include "cpu/panel/row_access.h"

namespace tqs::panel {

// Rows: x (or dx), out (or its tangent), p.
template <class W>
static std::int64_t softmax_scratch(const SoftmaxTask& task) {
    return 3 * padded_row<W>(task.x.sizes[task.x.rank - 1]) * static_cast<std::int64_t>(sizeof(typename W::Element));
}

// y = softmax(x) or its logarithm.
template <class W>
static void softmax_row(const typename W::Element* x, typename W::Element* y, std::int64_t elements, bool logarithm) {
    using T = typename W::Element;
    constexpr T lowest = -std::numeric_limits<T>::infinity();
    const auto top = W::broadcast(extremum_of_row<W>(x, elements, T(1)));
    if (elements <= W::kLanes && !logarithm) {  // in one register: a partial store is slow to load again
        const auto e = Functions<W>::exp(load_some<W>(x, elements, lowest) - top);
        const auto sum = W::broadcast(fold_lanes<W>(e, [](auto a, auto b) { return a + b; }));
        return store_some<W>(y, e * (T(1) / sum), elements);
    }
    const T sum = sum_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
        const auto shifted = load_some<W>(x + i, count, lowest) - top;
        const auto e = Functions<W>::exp(shifted);
        store_some<W>(y + i, logarithm ? shifted : e, count);
        return e;
    });
    if (logarithm) {
        const auto log = W::broadcast(static_cast<T>(std::log(static_cast<double>(sum))));
        for_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
            store_some<W>(y + i, load_some<W>(y + i, count, T(0)) - log, count);
        });
    } else {
        const auto scale = W::broadcast(T(1) / sum);
        for_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
            store_some<W>(y + i, load_some<W>(y + i, count, T(0)) * scale, count);
        });
    }
}

template <class W>
static void softmax(const SoftmaxTask& task) {
    using T = typename W::Element;
    const Operand* const operands[] = {&task.x, &task.out};
    const RowSet<W, 2> rows(task.extent, operands, 1);
    const std::int64_t elements = rows.elements();
    T* const x_row = static_cast<T*>(task.scratch);
    T* const out_row = x_row + padded_row<W>(elements);
    T* const p_row = out_row + padded_row<W>(elements);
    const T* p = nullptr;
    const auto primal = [&](std::int64_t lane, const std::int64_t (&offsets)[2]) {
        char* base = lane_bytes(task.out, lane, false);
        T* y = rows.place(1, base, offsets, p_row);
        softmax_row<W>(rows.read(0, lane_bytes(task.x, lane, false), offsets, x_row), y, elements, task.logarithm);
        rows.finish(1, base, offsets, y);
        p = y;
        if (!task.logarithm || !task.extent.tangent) return;
        for_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
            store_some<W>(p_row + i, Functions<W>::exp(load_some<W>(y + i, count, T(0))), count);
        });
        p = p_row;
    };
    const auto tangent = [&](std::int64_t lane, const std::int64_t (&offsets)[2]) {
        char* base = lane_bytes(task.out, lane, false);
        T* y = rows.place(1, base, offsets, out_row);
        const char* from = lane_bytes(task.x, lane, true);
        if (!from) {
            fill_run<W>(y, T(0), elements);
        } else {
            const T* dx = rows.read(0, from, offsets, x_row);
            const auto mean = W::broadcast(sum_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
                return load_some<W>(p + i, count, T(0)) * load_some<W>(dx + i, count, T(0));
            }));
            for_row<W>(elements, [&](std::int64_t i, std::int64_t count) {
                const auto centred = load_some<W>(dx + i, count, T(0)) - mean;
                store_some<W>(y + i, task.logarithm ? centred : load_some<W>(p + i, count, T(0)) * centred, count);
            });
        }
        rows.finish(1, base, offsets, y);
    };
    for_lanes(task.extent, rows, primal, tangent);
}

}  // namespace tqs::panel
