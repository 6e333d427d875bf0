// Rows of x in the form the products read (layout.h): bfloat16 widened, or rounded to int8.
#pragma once

#include <cstring>

#include "core/half.h"
#include "cpu/panel/layout.h"

namespace tqs::panel {

static std::int64_t widened_bytes(const QgemmTask& task) {
    return task.rows * round_up(task.weight.columns, 16) * static_cast<std::int64_t>(sizeof(float));
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

template <class V>
static void widen_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    const std::int64_t stride = round_up(task.weight.columns, 16);
    for (std::int64_t m = begin; m < end; ++m) {
        widen_row<V>(static_cast<const char*>(task.x) + m * task.x_stride * 2, task.weight.columns,
                     reinterpret_cast<float*>(out) + m * stride);
    }
}

// kLanes elements of x; `count` of them exist, the others are zero.
template <class V, DType dtype>
static inline typename V::Float load_x(const char* x, std::int64_t count) {
    if (count >= V::kLanes) {
        if constexpr (dtype == DType::bfloat16) return V::widen(x);
        return V::load_unaligned(x);
    }
    alignas(64) float buffer[V::kLanes] = {};
    if constexpr (dtype == DType::bfloat16) {
        widen_row<V>(x, count, buffer);
    } else {
        std::memcpy(buffer, x, static_cast<std::size_t>(count) * sizeof(float));
    }
    return V::load(buffer);
}

// Place of input k among the codes of its row (layout.h).
template <int per_word>
static constexpr std::int64_t place(std::int64_t k) {
    constexpr int pieces = per_word / 4;
    const std::int64_t within = k % per_word;
    return k - within + within % pieces * 4 + within / pieces;
}

template <class V, DType dtype>
static void quantize_row(const QgemmTask& task, std::int64_t m, const QuantizedRows& rows) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    const PackedView& weight = task.weight;
    const std::int64_t columns = weight.columns;
    const char* x = static_cast<const char*>(task.x) + m * task.x_stride * item;
    std::int8_t* codes = rows.codes + m * rows.stride;

    // The bit patterns of magnitudes are ordered as integers, NaN above infinity above all numbers.
    typename V::Int largest = V::broadcast_int(0);
    for (std::int64_t k = 0; k < columns; k += V::kLanes) {
        largest = V::max_int(largest, V::magnitude(load_x<V, dtype>(x + k * item, columns - k)));
    }
    const std::int32_t bits = V::largest(largest);
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const bool finite = bits < 0x7F800000, quiet = finite && most < kQuietRow;
    rows.scales[m] = quiet ? 0.0f : finite ? most / 127.0f : __builtin_nanf("");
    const auto inverse = V::broadcast(quiet || !finite ? 0.0f : 127.0f / most);
    for (std::int64_t k = 0; k < rows.stride; k += V::kLanes) {
        const auto value = k < columns ? load_x<V, dtype>(x + k * item, columns - k) : V::broadcast(0.0f);
        V::store_bytes(codes + k, finite ? V::round(V::mul(value, inverse)) : V::broadcast_int(0));
    }

    const int factor = weight.zeros ? 1 : 1 << (weight.bits - 1);
    for (std::int64_t s = 0; s < rows.spans; ++s) {
        const std::int64_t first = s * span_width(weight), last = std::min(first + span_width(weight), columns);
        std::int32_t sum = 0;
        for (std::int64_t k = first; k < last; ++k) sum += codes[k];
        rows.offsets[m * rows.spans + s] = -sum * factor;
    }

    const int per_word = codes_per_word(weight.bits);
    if (per_word == 4) return;
    std::int8_t word[16];
    for (std::int64_t k = 0; k < rows.stride; k += per_word) {
        std::memcpy(word, codes + k, static_cast<std::size_t>(per_word));
        if (per_word == 8) {
            for (int i = 0; i < 8; ++i) codes[k + place<8>(i)] = word[i];
        } else {
            for (int i = 0; i < 16; ++i) codes[k + place<16>(i)] = word[i];
        }
    }
}

template <class V, DType dtype>
static void quantize_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    const QuantizedRows rows = quantized_rows(task, out);
    for (std::int64_t m = begin; m < end; ++m) quantize_row<V, dtype>(task, m, rows);
}

}  // namespace tqs::panel
