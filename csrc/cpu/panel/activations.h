// Rows of x in the form the products read (layout.h): as float32, as pairs of bfloat16, or rounded to int8;
// always interleaved.
#pragma once

#include <cstring>

#include "core/half.h"
#include "cpu/panel/layout.h"

namespace tqs::panel {

template <DType dtype>
static inline void load_row(const char* x, std::int64_t count, float* out) {
    if constexpr (dtype == DType::float32) {
        std::memcpy(out, x, static_cast<std::size_t>(count) * sizeof(float));
    } else {
        for (std::int64_t k = 0; k < count; ++k) {
            std::uint16_t bits;
            std::memcpy(&bits, x + k * 2, sizeof bits);
            out[k] = bfloat16_to_float(bits);
        }
    }
}

// `count` words to their places in a block of `rows` rows.
static inline void interleave(const void* words, std::int64_t count, std::int64_t rows, std::uint32_t* out) {
    if (rows == 1) {
        std::memcpy(out, words, static_cast<std::size_t>(count) * 4);
        return;
    }
    for (std::int64_t w = 0; w < count; ++w) std::memcpy(out + w * rows, static_cast<const char*>(words) + w * 4, 4);
}

// Where word 0 of row m goes, and its block: the first row, how many.
struct Place {
    std::uint32_t* out;
    std::int64_t first, rows;
};

template <class V>
static inline Place place_of_row(const QgemmTask& task, Activation activation, std::int64_t m, std::uint8_t* out) {
    const RowBlocks blocks = row_blocks<V>(task);
    const std::int64_t block = blocks.of_row(m), first = blocks.begin(block);
    auto* words = reinterpret_cast<std::uint32_t*>(out) + first * words_per_row(task.weight, activation);
    return {words + (m - first), first, blocks.begin(block + 1) - first};
}

inline constexpr std::int64_t kStrip = 512;  // inputs that are rewritten at a time, in L1

// kLanes elements of x; `count` of them exist, the others are zero.
template <class V, DType dtype>
static inline typename V::Float load_x(const char* x, std::int64_t count) {
    if (count >= V::kLanes) {
        if constexpr (dtype == DType::bfloat16) return V::widen(x);
        return V::load_unaligned(x);
    }
    alignas(64) float buffer[V::kLanes] = {};
    load_row<dtype>(x, count, buffer);
    return V::load(buffer);
}

// Where the codes of a word, or two words, of 4 bits come from (layout.h), and of a word of 2 bits.
alignas(16) static constexpr std::uint8_t kOrder4[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
alignas(16) static constexpr std::uint8_t kOrder2[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

// The largest magnitude. Bit patterns of magnitudes are ordered as integers: NaN above infinity above all numbers.
template <class V, DType dtype>
static float largest_magnitude(const char* x, std::int64_t columns) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    typename V::Int largest = V::broadcast_int(0);
    for (std::int64_t k = 0; k < columns; k += V::kLanes) {
        largest = V::max_int(largest, V::magnitude(load_x<V, dtype>(x + k * item, columns - k)));
    }
    const std::int32_t bits = V::largest(largest);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class V, DType dtype>
static void quantize_row(const QgemmTask& task, std::int64_t m, std::uint8_t* out) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    const PackedView& weight = task.weight;
    const std::int64_t columns = weight.columns, spans = span_count(weight);
    const char* x = static_cast<const char*>(task.x) + m * task.x_stride * item;
    auto* scales = reinterpret_cast<float*>(out) + scales_at(task);
    Place place = place_of_row<V>(task, Activation::int8, m, out);
    auto* offsets = reinterpret_cast<std::int32_t*>(out) + offsets_at(task, place.first) + (m - place.first);
    const float most = largest_magnitude<V, dtype>(x, columns);
    const bool finite = most <= 0x1.fffffep127f, quiet = finite && most < kQuietRow;
    scales[m] = quiet ? 0.0f : finite ? most / 127.0f : __builtin_nanf("");
    const auto inverse = V::broadcast(quiet || !finite ? 0.0f : 127.0f / most);
    const int zero = weight.zeros ? 1 : 1 << (weight.bits - 1);
    for (std::int64_t s = 0; s < spans; ++s) {
        const std::int64_t last = std::min((s + 1) * span_width(weight), columns);
        typename V::Int sum = V::broadcast_int(0);
        for (std::int64_t first = s * span_width(weight); first < last; first += kStrip) {
            const std::int64_t count = std::min(kStrip, last - first);
            alignas(64) std::int8_t codes[kStrip] = {};
            for (std::int64_t k = 0; k < count && finite; k += V::kLanes) {
                const auto code = V::round(V::mul(load_x<V, dtype>(x + (first + k) * item, last - first - k), inverse));
                sum = V::add_int(sum, code);
                V::store_bytes(codes + k, code);
            }
            if (weight.bits != 8) {
                const std::uint8_t* order = weight.bits == 2 ? kOrder2 : kOrder4;
                for (std::int64_t k = 0; k < count; k += 16) V::reorder_bytes(codes + k, order);
            }
            const std::int64_t words = round_up(count, codes_per_word(weight.bits)) / 4;
            interleave(codes, words, place.rows, place.out);
            place.out += words * place.rows;
        }
        offsets[s * place.rows] = -V::total(sum) * zero;
    }
}

template <class V, DType dtype>
static void quantize_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    for (std::int64_t m = begin; m < end; ++m) quantize_row<V, dtype>(task, m, out);
}

// Strip by strip, `rewrite(x, count, padded, words)` makes the words of `count` inputs followed by zeros.
template <class V, Activation activation, DType dtype, class Rewrite>
static void rewrite_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out,
                         const Rewrite& rewrite) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    for (std::int64_t m = begin; m < end; ++m) {
        const char* x = static_cast<const char*>(task.x) + m * task.x_stride * item;
        Place place = place_of_row<V>(task, activation, m, out);
        for (std::int64_t first = 0; first < task.weight.columns; first += kStrip) {
            const std::int64_t count = std::min(kStrip, task.weight.columns - first);
            const std::int64_t padded = round_up(count, codes_per_word(task.weight.bits));
            alignas(64) unsigned char words[kStrip * 4];
            rewrite(x + first * item, count, padded, words);
            interleave(words, padded / codes_per_term(activation), place.rows, place.out);
            place.out += padded / codes_per_term(activation) * place.rows;
        }
    }
}

template <class V, DType dtype>
static void exact_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    rewrite_rows<V, Activation::exact, dtype>(task, begin, end, out,
                                              [](const char* x, std::int64_t count, std::int64_t padded, void* words) {
                                                  auto* values = static_cast<float*>(words);
                                                  load_row<dtype>(x, count, values);
                                                  std::fill(values + count, values + padded, 0.0f);
                                              });
}

// Inputs p and p + C / 2 of every C make a word.
template <int codes>
static inline void pair_up(const std::uint16_t* x, std::int64_t count, std::uint32_t* words) {
    for (std::int64_t k = 0; k < count; k += codes, words += codes / 2) {
        for (int p = 0; p < codes / 2; ++p) {
            words[p] = x[k + p] | static_cast<std::uint32_t>(x[k + codes / 2 + p]) << 16;
        }
    }
}

// Of bfloat16.
template <class V>
static void pair_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    const int codes = codes_per_word(task.weight.bits);
    rewrite_rows<V, Activation::pairs, DType::bfloat16>(
        task, begin, end, out, [codes](const char* x, std::int64_t count, std::int64_t padded, void* words) {
            auto* pairs = static_cast<std::uint32_t*>(words);
            std::uint16_t inputs[kStrip];
            std::memcpy(inputs, x, static_cast<std::size_t>(count) * 2);
            std::fill(inputs + count, inputs + padded, std::uint16_t{0});
            if (codes == 4) pair_up<4>(inputs, padded, pairs);
            if (codes == 8) pair_up<8>(inputs, padded, pairs);
            if (codes == 16) pair_up<16>(inputs, padded, pairs);
        });
}

}  // namespace tqs::panel
