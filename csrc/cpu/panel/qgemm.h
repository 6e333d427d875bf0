// qgemm for a vector ISA. Panels of kPanel output columns, packed (layout.h), meet a block of rows; codes become
// numbers in registers, where `rows` of them share the work:
//
//                       words [W, kPanel]                 exact: per code 2 vectors decoded, `rows` broadcasts of x,
//                     +----------+----------+                    2 rows multiply-adds
//     x [rows, K]     |  vector  |  vector  |             int8:  per byte of a word 2 vectors shifted and masked,
//     r: x[r, k] ---> |part[r][0]|part[r][1]|                    `rows` broadcasts of 4 codes of x, 2 rows dot products
//                     +----------+----------+
//       at the end of a span: sum[r][v] += scale[v] part[r][v]
//
// A processor with two multiply-adds per cycle and a latency of four needs eight independent parts. 12 rows x 2 vectors
// have 24 and with 4 vectors of codes, a broadcast and a constant fill the 32 registers of AVX-512 (AVX2: 4 rows, 8
// parts, 16 registers); the sums wait in memory, where a span of 128 inputs meets them once per 32 products. Loads are
// half as many as multiply-adds, decoding runs on the other two units. For few rows there are too few parts, and 4 or 2
// panels go side by side; what is left there is the reading of the words, each once.
//
// Caches. A block passes over a panel of K kPanel bits / 8 bytes (64 KiB at K = 4096, 4 bits), read from L2 by every
// block of rows but the first; x goes in chunks of at most kResidentBytes, which stay in L2 beside it while all panels
// pass.
//
// Each lane sums its own output. There is no horizontal sum and no remainder over columns, so the bits of an output do
// not depend on M, on its place in a block, or on the thread that computes it.
#pragma once

#include <cstring>

#include "core/half.h"
#include "cpu/panel/dispatch_rows.h"
#include "cpu/panel/prepack.h"

namespace tqs::panel {

inline constexpr std::int64_t kResidentBytes = 128 * 1024;

using PrepackPanel = void (*)(const PackedView& weight, std::int64_t row, std::uint8_t* out);

// Panels side by side at `rows` rows.
template <class V>
static constexpr int panels_together(std::int64_t rows) {
    return rows == 1 ? 4 : rows <= V::kRows / 4 ? 2 : 1;
}

template <class V>
static std::int64_t scratch_bytes(const PackedView& weight) {
    return panels_together<V>(1) * panel_bytes(weight, V::kPanel);
}

// One span of panels that lie side by side, `bytes` apart.
struct Span {
    const std::uint8_t* scales;
    const std::uint8_t* zeros;  // null for symmetric weights
    const std::uint8_t* codes;
    std::int64_t bytes;
    std::int64_t count;  // of inputs
    int zero;            // of symmetric weights
};

// part[r][v] of one span for `rows` rows, whose interleaved words are at x, and 2 `panels` vectors.
template <class V, int bits, bool symmetric, int rows, int panels>
static inline void span_part(const float* x, const Span& span, typename V::Float (&part)[rows][2 * panels]) {
    constexpr int width = 2 * panels, per_word = 32 / bits;
    using Decoder = typename V::template Decoder<bits, symmetric>;
    Decoder decoder[symmetric ? 1 : width];
#pragma GCC unroll 16
    for (int v = 0; v < (symmetric ? 1 : width); ++v) {
        decoder[v] = Decoder(symmetric ? nullptr : span.zeros + v / 2 * span.bytes + v % 2 * V::kLanes, span.zero);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) part[r][v] = V::broadcast(0.0f);
    }
    const auto meet = [&](const typename V::Int(&word)[width], const float* values) {
        typename V::Float value[width];
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) value[v] = decoder[symmetric ? 0 : v](word[v]);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const auto broadcast = V::broadcast(values[r]);
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) part[r][v] = V::multiply_add(broadcast, value[v], part[r][v]);
        }
    };
    const std::uint8_t* codes = span.codes;
    typename V::Int word[width];
    std::int64_t k = 0;
    for (; k <= span.count - per_word; k += per_word, codes += V::kPanel * 4) {
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) word[v] = V::load_int(codes + v / 2 * span.bytes + v % 2 * V::kLanes * 4);
#pragma GCC unroll 16
        for (int c = 0; c < per_word; ++c) {
            meet(word, x + (k + c) * rows);
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) word[v] = V::template shift_right<bits>(word[v]);
        }
    }
    if (k == span.count) return;
    for (int v = 0; v < width; ++v) word[v] = V::load_int(codes + v / 2 * span.bytes + v % 2 * V::kLanes * 4);
    for (; k < span.count; ++k) {
        meet(word, x + k * rows);
        for (int v = 0; v < width; ++v) word[v] = V::template shift_right<bits>(word[v]);
    }
}

// The same of int8 codes; offsets[r * spans] start the sums.
template <class V, int bits, int rows, int panels>
static inline void span_part(const std::int32_t* x, const std::int32_t* offsets, std::int64_t spans, const Span& span,
                             typename V::Int (&part)[rows][2 * panels]) {
    constexpr int width = 2 * panels, per_word = 32 / bits;
    using Int = typename V::Int;
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        const Int offset = V::broadcast_int(offsets[r * spans]);
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            part[r][v] = offset;
            if (!span.zeros) continue;
            part[r][v] = V::multiply_int(offset, V::widen_bytes(span.zeros + v / 2 * span.bytes + v % 2 * V::kLanes));
        }
    }
    const std::uint8_t* codes = span.codes;
    for (std::int64_t k = 0; k < span.count; k += per_word, codes += V::kPanel * 4) {
        Int word[width];
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) word[v] = V::load_int(codes + v / 2 * span.bytes + v % 2 * V::kLanes * 4);
#pragma GCC unroll 4
        for (int piece = 0; piece < per_word; piece += 4, x += rows) {
            Int lowest[width];
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) {
                lowest[v] = V::template low_bits<bits>(word[v]);
                word[v] = V::template shift_right<bits>(word[v]);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Int four = V::broadcast_int(x[r]);
#pragma GCC unroll 16
                for (int v = 0; v < width; ++v) part[r][v] = V::template dot<bits>(part[r][v], lowest[v], four);
            }
        }
    }
}

// Scales a row of int8 activations, adds the bias and writes the first `count` columns (at most kLanes) of y.
template <class V>
static inline void finish(typename V::Float sum, const float* scale, const float* bias, DType dtype, char* y,
                          std::int64_t count) {
    alignas(64) float row[V::kLanes] = {};
    if (bias && count < V::kLanes) std::memcpy(row, bias, static_cast<std::size_t>(count) * sizeof(float));
    const auto start = !bias ? V::broadcast(0.0f) : count < V::kLanes ? V::load(row) : V::load_unaligned(bias);
    const auto value = scale ? V::multiply_add(sum, V::broadcast(*scale), start) : bias ? V::add(sum, start) : sum;
    if (dtype == DType::float32 && count >= V::kLanes) return V::store_unaligned(y, value);
    V::store(row, value);
    if (dtype == DType::float32) {
        std::memcpy(y, row, static_cast<std::size_t>(count) * sizeof(float));
    } else {
        std::uint16_t rounded[V::kLanes];
        for (std::int64_t j = 0; j < V::kLanes; ++j) rounded[j] = float_to_bfloat16(row[j]);
        std::memcpy(y, rounded, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
    }
}

// What a call computes, beside the form of its weight.
struct Job {
    const QgemmTask& task;
    DType dtype;  // of y
    PrepackPanel prepack;
};

// Columns [n, end), at most `panels` panels that lie at `data`, of a block of rows from m on.
template <class V, Activation activation, int bits, bool symmetric, int rows, int panels>
static inline void multiply(const Job& job, const std::uint8_t* data, std::int64_t m, std::int64_t n,
                            std::int64_t end) {
    constexpr int width = 2 * panels;
    constexpr bool int8 = activation == Activation::int8;
    const QgemmTask& task = job.task;
    const PackedView& weight = task.weight;
    const std::int64_t spans = span_count(weight), span_inputs = span_width(weight);
    const std::int64_t step = span_bytes(weight, V::kPanel, span_inputs);
    const std::int64_t x_step = (int8 ? span_inputs / 4 : span_inputs) * rows;
    const std::uint8_t* x = task.activations + m * words_per_row(weight, activation) * 4;
    const auto* integers = reinterpret_cast<const std::int32_t*>(task.activations);
    alignas(64) float sums[rows][width][V::kLanes] = {};
    const std::uint8_t* zeros = data + scale_bytes(V::kPanel);
    Span span{data,
              weight.zeros ? zeros : nullptr,
              zeros + zero_bytes(weight, V::kPanel),
              panel_bytes(weight, V::kPanel),
              span_inputs,
              1 << (weight.bits - 1)};
    const auto add = [&](auto&& part_of) {
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            const auto scale = V::widen(span.scales + v / 2 * span.bytes + v % 2 * V::kLanes * 2);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                V::store(sums[r][v], V::multiply_add(scale, part_of(r, v), V::load(sums[r][v])));
            }
        }
    };
    for (std::int64_t s = 0; s < spans; ++s, x += x_step * 4) {
        if (s == spans - 1) span.count = weight.columns - s * span_inputs;
        if constexpr (int8) {
            typename V::Int part[rows][width];
            span_part<V, bits, rows, panels>(reinterpret_cast<const std::int32_t*>(x),
                                             integers + offsets_at(task, m) + s, spans, span, part);
            add([&](int r, int v) { return V::to_float(part[r][v]); });
        } else {
            typename V::Float part[rows][width];
            span_part<V, bits, symmetric, rows, panels>(reinterpret_cast<const float*>(x), span, part);
            add([&](int r, int v) { return part[r][v]; });
        }
        span.scales += step;
        if (span.zeros) span.zeros += step;
        span.codes += step;
    }
    const auto* scales = reinterpret_cast<const float*>(task.activations) + scales_at(task);
    const std::int64_t item = job.dtype == DType::float32 ? 4 : 2;
    for (int r = 0; r < rows; ++r) {
        char* y = static_cast<char*>(task.y) + ((m + r) * task.y_stride + n) * item;
        for (int v = 0; v < width && n + v * V::kLanes < end; ++v) {
            const std::int64_t at = v * V::kLanes;
            finish<V>(V::load(sums[r][v]), int8 ? scales + m + r : nullptr, task.bias ? task.bias + n + at : nullptr,
                      job.dtype, y + at * item, std::min<std::int64_t>(V::kLanes, end - n - at));
        }
    }
}

template <class V, Activation activation, int bits, bool symmetric>
static void qgemm_rows(const Job& job, std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    const QgemmTask& task = job.task;
    const std::int64_t bytes = panel_bytes(task.weight, V::kPanel);
    const RowBlocks blocks = row_blocks<V>(task);
    const std::int64_t block_bytes = words_per_row(task.weight, activation) * 4 * V::kRows;
    const std::int64_t chunk = std::max<std::int64_t>(1, kResidentBytes / block_bytes);
    const std::int64_t together = blocks.count == 1 ? panels_together<V>(task.rows) : 1;
    for (std::int64_t block = 0; block < blocks.count; block += chunk) {
        const std::int64_t last = std::min(block + chunk, blocks.count);
        for (std::int64_t n = begin; n < end;) {
            std::int64_t taken = together;
            while (taken > 1 && n + (taken - 1) * V::kPanel >= end) taken /= 2;
            const std::uint8_t* data = scratch;
            if (task.panels) {
                data = task.panels + n / V::kPanel * bytes;
            } else {
                for (std::int64_t p = 0; p < taken; ++p) {
                    job.prepack(task.weight, n + p * V::kPanel, scratch + p * bytes);
                }
            }
            for (std::int64_t b = block; b < last; ++b) {
                const std::int64_t m = blocks.begin(b);
                dispatch_rows<V::kRows>(blocks.begin(b + 1) - m, [&](auto fixed) {
                    constexpr int rows = fixed.value, most = panels_together<V>(rows), half = most / 2 + most % 2;
                    if (taken == most) {
                        multiply<V, activation, bits, symmetric, rows, most>(job, data, m, n, end);
                    } else if (taken == half) {
                        multiply<V, activation, bits, symmetric, rows, half>(job, data, m, n, end);
                    } else {
                        multiply<V, activation, bits, symmetric, rows, 1>(job, data, m, n, end);
                    }
                });
            }
            n += taken * V::kPanel;
        }
    }
}

template <class V, Activation activation, DType dtype, int bits>
static void qgemm(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    const Job job{task, dtype, prepack_panel<V, bits>};
    if (activation == Activation::exact && task.weight.zeros) {
        qgemm_rows<V, activation, stored_bits(bits), false>(job, begin, end, scratch);
    } else {  // int8 tells at run time
        qgemm_rows<V, activation, stored_bits(bits), true>(job, begin, end, scratch);
    }
}

}  // namespace tqs::panel
