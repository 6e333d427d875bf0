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

// Some consecutive rows of one block of rows, which are rewritten together.
struct Gang {
    std::int64_t first, count;        // rows
    std::int64_t block_first, block;  // the first row of their block, how many it has
    std::uint32_t* out;               // place of their word 0
};

// body(gang) for rows [begin, end), whose words go to `out`.
template <class V, class Body>
static void for_gangs(const QgemmTask& task, Activation activation, std::int64_t begin, std::int64_t end,
                      std::uint8_t* out, const Body& body) {
    const RowBlocks blocks = row_blocks<V>(task);
    const std::int64_t words = words_per_row(task.weight, activation);
    auto* to = reinterpret_cast<std::uint32_t*>(out);
    for (std::int64_t block = blocks.of_row(begin); begin < end; ++block) {
        const std::int64_t first = blocks.begin(block), after = blocks.begin(block + 1), last = std::min(after, end);
        body(Gang{begin, last - begin, first, after - first, to + first * words + (begin - first)});
        begin = last;
    }
}

// `count` words of each row of a gang, with rows `stride` words apart, to their places from `out` on: word by word, row
// by row. Vectors are read whole: `stride` is a multiple of kLanes.
template <class V>
static void interleave(const std::uint32_t* words, std::int64_t stride, std::int64_t count, const Gang& gang,
                       std::uint32_t* out) {
    if (gang.block == 1) {
        std::memcpy(out, words, static_cast<std::size_t>(count) * 4);
        return;
    }
    for (std::int64_t w = 0; w < count; w += V::kLanes) {
        const std::int64_t taken = std::min<std::int64_t>(V::kLanes, count - w);
        for (std::int64_t first = 0; first < V::kRows && first < gang.count; first += V::kLanes) {
            typename V::Float tile[V::kLanes];
            for (std::int64_t i = 0, r = first; i < V::kLanes; ++i, ++r) {
                const bool exists = r < V::kRows && r < gang.count;
                tile[i] = exists ? V::load(reinterpret_cast<const float*>(words + r * stride + w)) : V::broadcast(0.0f);
            }
            V::transpose(tile);
            for (std::int64_t i = 0; i < taken; ++i) {
                V::store_partial(reinterpret_cast<float*>(out + (w + i) * gang.block + first), tile[i],
                                 gang.count - first);
            }
        }
    }
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

// Where the bytes of 16 come from: codes of a word, or two words, of 4 bits (layout.h); codes of a word of 2 bits;
// pairs of bfloat16 of a word of 4 bits, and of two words of 8.
alignas(16) static constexpr std::uint8_t kOrder4[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
alignas(16) static constexpr std::uint8_t kOrder2[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
alignas(16) static constexpr std::uint8_t kPairs4[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
alignas(16) static constexpr std::uint8_t kPairs8[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};

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

// Of one row: what its elements are multiplied by, and whether there is anything to round.
template <class V, DType dtype>
static float scale_row(const char* x, std::int64_t columns, float* scale) {
    const float most = largest_magnitude<V, dtype>(x, columns);
    const bool finite = most <= 0x1.fffffep127f, quiet = finite && most < kQuietRow;
    *scale = quiet ? 0.0f : finite ? most / 127.0f : __builtin_nanf("");
    return quiet || !finite ? 0.0f : 127.0f / most;
}

// Rounds `count` elements of x to `codes`; their sum.
template <class V, DType dtype>
static std::int32_t round_strip(const char* x, std::int64_t count, float inverse, std::int8_t* codes) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    typename V::Int sum = V::broadcast_int(0);
    for (std::int64_t k = 0; k < count; k += V::kLanes) {
        const auto code = V::round(V::mul(load_x<V, dtype>(x + k * item, count - k), V::broadcast(inverse)));
        sum = V::add_int(sum, code);
        V::store_bytes(codes + k, code);
    }
    return V::total(sum);
}

template <class V, DType dtype>
static void quantize_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    const PackedView& weight = task.weight;
    const std::int64_t columns = weight.columns, width = span_width(weight);
    const std::int64_t row_words = words_per_row(weight, Activation::int8), spans = span_count(weight);
    auto* scales = reinterpret_cast<float*>(out) + scales_at(task.rows, row_words);
    const int zero = weight.zeros ? 1 : (1 << (weight.bits - 1)) - V::code_offset(weight.bits);
    for_gangs<V>(task, Activation::int8, begin, end, out, [&](const Gang& gang) {
        const auto row = [&](std::int64_t r) {
            return static_cast<const char*>(task.x) + (gang.first + r) * task.x_stride * item;
        };
        auto* offsets = reinterpret_cast<std::int32_t*>(out) +
                        offsets_at(task.rows, row_words, spans, gang.block_first) + (gang.first - gang.block_first);
        float inverse[V::kRows];
        std::int32_t sum[V::kRows] = {};  // of the codes of a span
        for (std::int64_t r = 0; r < gang.count; ++r) {
            inverse[r] = scale_row<V, dtype>(row(r), columns, scales + gang.first + r);
        }
        std::uint32_t* words = gang.out;
        for (std::int64_t first = 0; first < columns; first += kStrip) {
            const std::int64_t count = std::min(kStrip, columns - first);
            const std::int64_t padded = round_up(count, unit_codes(weight.bits));
            alignas(64) std::int8_t codes[V::kRows][kStrip];
            for (std::int64_t r = 0; r < gang.count; ++r) {
                std::memset(codes[r] + count / 16 * 16, 0,
                            static_cast<std::size_t>(round_up(padded, 64) - count / 16 * 16));
                for (std::int64_t k = 0; k < count; k += width) {  // whole spans, or a part of one
                    const std::int64_t piece = std::min(width, count - k);
                    if (inverse[r] != 0.0f) {
                        sum[r] += round_strip<V, dtype>(row(r) + (first + k) * item, piece, inverse[r], codes[r] + k);
                    } else {
                        std::memset(codes[r] + k, 0, static_cast<std::size_t>(piece));
                    }
                    const std::int64_t last = first + k + piece;
                    if (last % width != 0 && last != columns) continue;
                    offsets[(last - 1) / width * gang.block + r] = -sum[r] * zero;
                    sum[r] = 0;
                }
                if (weight.bits == 8) continue;
                const std::uint8_t* order = weight.bits == 2 ? kOrder2 : kOrder4;
                for (std::int64_t k = 0; k < count; k += 16) V::reorder_bytes(codes[r] + k, order);
            }
            interleave<V>(reinterpret_cast<const std::uint32_t*>(codes), kStrip / 4, padded / 4, gang, words);
            words += padded / 4 * gang.block;
        }
    });
}

// Strip by strip, `rewrite(x, count, padded, words)` makes the words of `count` inputs followed by zeros.
template <class V, Activation activation, DType dtype, class Rewrite>
static void rewrite_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out,
                         const Rewrite& rewrite) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2, stride = kStrip / codes_per_term(activation);
    for_gangs<V>(task, activation, begin, end, out, [&](const Gang& gang) {
        std::uint32_t* to = gang.out;
        for (std::int64_t first = 0; first < task.weight.columns; first += kStrip) {
            const std::int64_t count = std::min(kStrip, task.weight.columns - first);
            const std::int64_t padded = round_up(count, unit_codes(task.weight.bits));
            alignas(64) std::uint32_t words[V::kRows][stride];
            for (std::int64_t r = 0; r < gang.count; ++r) {
                const char* x = static_cast<const char*>(task.x) + ((gang.first + r) * task.x_stride + first) * item;
                rewrite(x, count, padded, words[r]);
            }
            interleave<V>(words[0], stride, padded / codes_per_term(activation), gang, to);
            to += padded / codes_per_term(activation) * gang.block;
        }
    });
}

template <class V, DType dtype>
static void exact_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    rewrite_rows<V, Activation::exact, dtype>(
        task, begin, end, out, [](const char* x, std::int64_t count, std::int64_t padded, std::uint32_t* words) {
            auto* values = reinterpret_cast<float*>(words);
            load_row<dtype>(x, count, values);
            std::fill(values + count, values + padded, 0.0f);
        });
}

// Of bfloat16. Inputs p and p + C / 2 of every C make a word.
template <class V>
static void pair_rows(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* out) {
    const int codes = codes_per_word(task.weight.bits);
    rewrite_rows<V, Activation::pairs, DType::bfloat16>(
        task, begin, end, out, [codes](const char* x, std::int64_t count, std::int64_t padded, std::uint32_t* words) {
            alignas(64) std::uint16_t inputs[kStrip];
            std::memcpy(inputs, x, static_cast<std::size_t>(count) * 2);
            std::fill(inputs + count, inputs + padded, std::uint16_t{0});
            if (codes == 16) {
                for (std::int64_t k = 0; k < padded; k += 16, words += 8) {
                    for (int p = 0; p < 8; ++p) {
                        words[p] = inputs[k + p] | static_cast<std::uint32_t>(inputs[k + 8 + p]) << 16;
                    }
                }
                return;
            }
            auto* bytes = reinterpret_cast<std::int8_t*>(inputs);
            for (std::int64_t k = 0; k < padded; k += 8) {
                V::reorder_bytes(bytes + k * 2, codes == 8 ? kPairs4 : kPairs8);
            }
            std::memcpy(words, inputs, static_cast<std::size_t>(padded) * 2);
        });
}

}  // namespace tqs::panel
