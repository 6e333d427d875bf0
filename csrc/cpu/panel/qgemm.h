// qgemm for a vector ISA. A panel of kPanel output columns is decoded to float once, transposed, and then meets every
// row of x, kRows rows at a time:
//
//                      panel  w [K, kPanel]                 per k: 2 loads of w, kRows broadcasts of x,
//                   +----------+----------+                 2 kRows fused multiply-adds into registers
//     x [kRows, K]  |  vector  |  vector  |
//     r: x[r, k] -> | acc[r][0]| acc[r][1]|  -> y[r, first ... first + kPanel)
//
// Each lane sums its own output over k in index order. There is no horizontal sum and no remainder loop over k, so an
// output's bits do not depend on M, on its place in a block, or on the thread that computes it.
// Decoding costs K kPanel once per panel against M K kPanel multiply-adds; for small M it dominates, and a prepacked
// weight makes it cheaper.
#pragma once

#include <cstring>

#include "backend/kernel_table.h"
#include "cpu/panel/decode.h"
#include "cpu/panel/dispatch_rows.h"

namespace tqs::panel {

// Floats: the decoded panel, then kRows rows of x widened from bfloat16.
template <class V>
static std::int64_t scratch_floats(std::int64_t columns) {
    return (V::kPanel + V::kRows) * round_up(columns, V::kLanes);
}

static inline float load_float(const char* bytes) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

// `x` at any address, rows `x_bytes` apart; out [rows, kPanel].
template <class V, int rows>
static inline void multiply(const char* x, std::int64_t x_bytes, std::int64_t columns, const float* panel,
                            typename V::Float (&out)[V::kRows][2]) {
    typename V::Float sums[rows][2];
    for (int r = 0; r < rows; ++r) sums[r][0] = sums[r][1] = V::broadcast(0.0f);
    for (std::int64_t k = 0; k < columns; ++k) {
        const typename V::Float w0 = V::load(panel + k * V::kPanel);
        const typename V::Float w1 = V::load(panel + k * V::kPanel + V::kLanes);
        for (int r = 0; r < rows; ++r) {
            const typename V::Float value =
                V::broadcast(load_float(x + r * x_bytes + k * static_cast<std::int64_t>(sizeof(float))));
            sums[r][0] = V::multiply_add(value, w0, sums[r][0]);
            sums[r][1] = V::multiply_add(value, w1, sums[r][1]);
        }
    }
    for (int r = 0; r < rows; ++r) {
        out[r][0] = sums[r][0];
        out[r][1] = sums[r][1];
    }
}

template <class V>
static void widen_row(const char* bfloat16, std::int64_t count, float* out) {
    std::int64_t k = 0;
    for (; k + V::kLanes <= count; k += V::kLanes) V::store(out + k, V::widen(bfloat16 + k * 2));
    for (; k < count; ++k) {
        std::uint16_t bits;
        std::memcpy(&bits, bfloat16 + k * 2, sizeof bits);
        out[k] = bfloat16_to_float(bits);
    }
}

// Adds the bias and writes the first `count` (1 ... kPanel) columns of one row of y.
template <class V, DType dtype>
static inline void finish_row(const typename V::Float (&sums)[2], const float* bias, char* y, std::int64_t count) {
    alignas(64) float row[V::kPanel];
    V::store(row, sums[0]);
    V::store(row + V::kLanes, sums[1]);
    if (bias) {
        for (std::int64_t j = 0; j < count; ++j) row[j] += bias[j];
    }
    if constexpr (dtype == DType::float32) {
        std::memcpy(y, row, static_cast<std::size_t>(count) * sizeof(float));
    } else {
        std::uint16_t rounded[V::kPanel];
        for (std::int64_t j = 0; j < count; ++j) rounded[j] = float_to_bfloat16(row[j]);
        std::memcpy(y, rounded, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
    }
}

template <class V, DType dtype, int bits>
static void qgemm(const QgemmTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    const PackedView& weight = task.weight;
    const std::int64_t padded = round_up(weight.columns, V::kLanes);
    float* panel = scratch;
    float* wide = scratch + V::kPanel * padded;
    for (std::int64_t first = begin; first < end; first += V::kPanel) {
        if (task.panels) {
            decode_prepacked<V, bits>(weight, task.panels + first / V::kPanel * panel_bytes(weight, V::kPanel), panel);
        } else {
            decode_panel<V, bits>(weight, first, panel);
        }
        const std::int64_t count = std::min<std::int64_t>(V::kPanel, end - first);
        const float* bias = task.bias ? task.bias + first : nullptr;
        for (std::int64_t m = 0; m < task.rows; m += V::kRows) {
            const std::int64_t rows = std::min<std::int64_t>(V::kRows, task.rows - m);
            const char* x = static_cast<const char*>(task.x) + m * task.x_stride * item;
            std::int64_t x_bytes = task.x_stride * item;
            if constexpr (dtype == DType::bfloat16) {
                for (std::int64_t r = 0; r < rows; ++r) {
                    widen_row<V>(x + r * x_bytes, weight.columns, wide + r * padded);
                }
                x = reinterpret_cast<const char*>(wide);
                x_bytes = padded * static_cast<std::int64_t>(sizeof(float));
            }
            typename V::Float sums[V::kRows][2];
            dispatch_rows<V::kRows>(
                rows, [&](auto fixed) { multiply<V, fixed.value>(x, x_bytes, weight.columns, panel, sums); });
            char* y = static_cast<char*>(task.y) + (m * task.y_stride + first) * item;
            for (std::int64_t r = 0; r < rows; ++r) {
                finish_row<V, dtype>(sums[r], bias, y + r * task.y_stride * item, count);
            }
        }
    }
}

}  // namespace tqs::panel
