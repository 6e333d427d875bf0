// The gates of recurrent networks, fused: both projections are read once and the new state is written, nothing between.
#pragma once

#include "backend/kernel_table.h"
#include "cpu/panel/functions.h"

namespace tqs::panel {

// One vector of hidden units. load(pointer) and store(pointer, vector) take all lanes, or the first few of a row's end.
template <class W, Recurrence recurrence, class Load, class Store>
static inline void advance_units(const float* x, const float* h, std::int64_t size, float* hidden, float* cell,
                                 const Load& load, const Store& store) {
    using F = Functions<W>;
    const auto sum = [&](int gate) {
        return load(x + gate * size) + load(h + gate * size);
    };
    if constexpr (recurrence == Recurrence::lstm) {
        const auto input = F::sigmoid(sum(0)), forget = F::sigmoid(sum(1)), output = F::sigmoid(sum(3));
        const auto kept = W::multiply_add(input, F::tanh(sum(2)), forget * load(cell));
        store(cell, kept);
        store(hidden, output * F::tanh(kept));
    } else if constexpr (recurrence == Recurrence::gru) {
        const auto reset = F::sigmoid(sum(0)), update = F::sigmoid(sum(1));
        const auto fresh = F::tanh(W::multiply_add(reset, load(h + 2 * size), load(x + 2 * size)));
        store(hidden, W::multiply_add(update, load(hidden) - fresh, fresh));
    } else if constexpr (recurrence == Recurrence::rnn_tanh) {
        store(hidden, F::tanh(sum(0)));
    } else {
        const auto value = sum(0), zero = W::broadcast(0.0f);
        store(hidden, value < zero ? zero : value);  // NaN stays
    }
}

template <class W, Recurrence recurrence>
static void gates(const GatesTask& task, std::int64_t begin, std::int64_t end) {
    constexpr bool has_cell = recurrence == Recurrence::lstm;
    for (std::int64_t row = begin; row < end; ++row) {
        const float *x = task.x + row * task.x_stride, *h = task.h + row * task.h_stride;
        float* hidden = task.hidden + row * task.hidden_stride;
        float* cell = has_cell ? task.cell + row * task.cell_stride : hidden;
        std::int64_t unit = 0;
        for (; unit + W::kLanes <= task.size; unit += W::kLanes) {
            advance_units<W, recurrence>(
                x + unit, h + unit, task.size, hidden + unit, cell + unit, [](const float* at) { return W::load(at); },
                [](float* at, auto value) { W::store(at, value); });
        }
        if (const std::int64_t rest = task.size - unit; rest > 0) {
            advance_units<W, recurrence>(
                x + unit, h + unit, task.size, hidden + unit, cell + unit,
                [rest](const float* at) { return W::load_first(at, rest, W::broadcast(0.0f)); },
                [rest](float* at, auto value) { W::store_first(at, value, rest); });
        }
    }
}

}  // namespace tqs::panel
