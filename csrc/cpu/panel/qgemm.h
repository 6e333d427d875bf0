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
// A processor with two multiply-adds per cycle and a latency of four needs eight independent parts: 6 rows x 2 vectors
// have 12, and with as many sums, 4 vectors of codes and a broadcast they fill the 32 registers of AVX-512 (AVX2: 3
// rows, 6 parts, 16 registers). Loads are fewer than multiply-adds, decoding runs on the other two units. For one or
// two rows there are too few parts, and 4 or 2 panels go side by side; what is left is the reading of the words, each
// once.
//
// Caches. A block passes over a panel of K kPanel bits / 8 bytes (64 KiB at K = 4096, 4 bits), read from L2 by every
// block of rows but the first; x goes in chunks of at most kChunkBytes, which stay in L2 beside it while all panels
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

inline constexpr std::int64_t kChunkBytes = 384 * 1024;

// Panels side by side at `rows` rows of kRows.
template <class V>
static constexpr int panels_together(std::int64_t rows) {
    return rows == 1 ? 4 : 2 * rows <= V::kRows ? 2 : 1;
}

template <class V>
static std::int64_t scratch_bytes(const PackedView& weight) {
    return panels_together<V>(1) * panel_bytes(weight, V::kPanel);
}

static inline float load_float(const char* bytes) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

// Panels side by side, `bytes` apart.
struct Panels {
    const PackedView& weight;
    const std::uint8_t* data;
    std::int64_t bytes;
};

// Rows of x as float32, any alignment.
struct ExactRows {
    const char* x;
    std::int64_t stride;  // bytes
    std::int64_t spans;   // none stored

    ExactRows from(std::int64_t row) const { return {x + row * stride, stride, spans}; }
};

// sums[r][v] of one span of `rows` rows and 2 `panels` vectors.
template <class V, int bits, bool symmetric, int rows, int panels>
static inline void add_span(const ExactRows& x, const Panels& w, const Span& span,
                            typename V::Float (&sums)[rows][2 * panels]) {
    constexpr int width = 2 * panels, per_word = codes_per_word(bits);
    using Decoder = typename V::template Decoder<stored_bits(bits), symmetric>;
    typename V::Float part[rows][width];
    Decoder decoder[symmetric ? 1 : width];
    const char* from[rows];
#pragma GCC unroll 16
    for (int v = 0; v < (symmetric ? 1 : width); ++v) {
        decoder[v] = Decoder(symmetric ? nullptr : span.zeros + v / 2 * w.bytes + v % 2 * V::kLanes, 1 << (bits - 1));
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        from[r] = x.x + r * x.stride + span.first * 4;
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) part[r][v] = V::broadcast(0.0f);
    }
    const auto meet = [&](const typename V::Int(&word)[width], std::int64_t k) {
        typename V::Float value[width];
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) value[v] = decoder[symmetric ? 0 : v](word[v]);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const auto broadcast = V::broadcast(load_float(from[r] + k * 4));
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) part[r][v] = V::multiply_add(broadcast, value[v], part[r][v]);
        }
    };
    for (std::int64_t i = 0; i < span.words; ++i) {
        typename V::Int word[width];
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            word[v] = V::load_int(span.codes + v / 2 * w.bytes + (i * V::kPanel + v % 2 * V::kLanes) * 4);
        }
        const std::int64_t left = span.count - i * per_word;
        if (left >= per_word) {
#pragma GCC unroll 16
            for (int c = 0; c < per_word; ++c) {
                meet(word, i * per_word + c);
#pragma GCC unroll 16
                for (int v = 0; v < width; ++v) word[v] = V::template shift_right<stored_bits(bits)>(word[v]);
            }
        } else {
            for (std::int64_t c = 0; c < left; ++c) {
                meet(word, i * per_word + c);
                for (int v = 0; v < width; ++v) word[v] = V::template shift_right<stored_bits(bits)>(word[v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int v = 0; v < width; ++v) {
        const auto scale = V::widen(span.scales + v / 2 * w.bytes + v % 2 * V::kLanes * 2);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) sums[r][v] = V::multiply_add(scale, part[r][v], sums[r][v]);
    }
}

// Rows of x as int8.
struct Int8Rows {
    const std::int8_t* codes;
    const std::int32_t* offsets;
    std::int64_t stride, spans;

    Int8Rows from(std::int64_t row) const { return {codes + row * stride, offsets + row * spans, stride, spans}; }
};

template <class V, int bits, bool symmetric, int rows, int panels>
static inline void add_span(const Int8Rows& x, const Panels& w, const Span& span,
                            typename V::Float (&sums)[rows][2 * panels]) {
    constexpr int width = 2 * panels, pieces = codes_per_word(bits) / 4;
    using Int = typename V::Int;
    Int part[rows][width];
    const std::int8_t* from[rows];
#pragma GCC unroll 16
    for (int v = 0; v < width; ++v) {
        Int zero;
        if constexpr (!symmetric) zero = V::widen_bytes(span.zeros + v / 2 * w.bytes + v % 2 * V::kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            part[r][v] = V::broadcast_int(x.offsets[r * x.spans + span.index]);
            if constexpr (!symmetric) part[r][v] = V::multiply_int(part[r][v], zero);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) from[r] = x.codes + r * x.stride + span.first;
    for (std::int64_t i = 0; i < span.words; ++i) {
        Int word[width];
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            word[v] = V::load_int(span.codes + v / 2 * w.bytes + (i * V::kPanel + v % 2 * V::kLanes) * 4);
        }
#pragma GCC unroll 4
        for (int piece = 0; piece < pieces; ++piece) {
            Int codes[width];
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) {
                codes[v] = V::template low_bits<stored_bits(bits)>(word[v]);
                word[v] = V::template shift_right<stored_bits(bits)>(word[v]);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Int four = V::load_four(from[r] + (i * pieces + piece) * 4);
#pragma GCC unroll 16
                for (int v = 0; v < width; ++v) part[r][v] = V::template dot<bits>(part[r][v], codes[v], four);
            }
        }
    }
#pragma GCC unroll 16
    for (int v = 0; v < width; ++v) {
        const auto scale = V::widen(span.scales + v / 2 * w.bytes + v % 2 * V::kLanes * 2);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) sums[r][v] = V::multiply_add(scale, V::to_float(part[r][v]), sums[r][v]);
    }
}

// Adds the bias and writes the first `count` columns (at most kLanes) of one row of y.
template <class V, DType dtype>
static inline void finish(typename V::Float sum, const float* scale, const float* bias, char* y, std::int64_t count) {
    alignas(64) float row[V::kLanes] = {};
    if (bias) std::memcpy(row, bias, static_cast<std::size_t>(count) * sizeof(float));
    const auto start = V::load(row);
    V::store(row, scale ? V::multiply_add(sum, V::broadcast(*scale), start) : bias ? V::add(sum, start) : sum);
    if constexpr (dtype == DType::float32) {
        std::memcpy(y, row, static_cast<std::size_t>(count) * sizeof(float));
    } else {
        std::uint16_t rounded[V::kLanes];
        for (std::int64_t j = 0; j < count; ++j) rounded[j] = float_to_bfloat16(row[j]);
        std::memcpy(y, rounded, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
    }
}

// Columns [first, end), at most `panels` panels, of a block of rows from m on.
template <class V, DType dtype, int bits, bool symmetric, int rows, int panels, class Rows>
static inline void multiply(const QgemmTask& task, const Rows& x, const float* scales, const Panels& w, std::int64_t m,
                            std::int64_t first, std::int64_t end) {
    constexpr std::int64_t item = dtype == DType::float32 ? 4 : 2;
    typename V::Float sums[rows][2 * panels];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < 2 * panels; ++v) sums[r][v] = V::broadcast(0.0f);
    }
    for (std::int64_t s = 0; s < span_count(w.weight); ++s) {
        add_span<V, bits, symmetric, rows, panels>(x, w, span_at(w.weight, V::kPanel, w.data, s), sums);
    }
    for (int r = 0; r < rows; ++r) {
        char* y = static_cast<char*>(task.y) + (m + r) * task.y_stride * item;
        for (int v = 0; v < 2 * panels; ++v) {
            const std::int64_t n = first + v * V::kLanes;
            if (n >= end) break;
            finish<V, dtype>(sums[r][v], scales ? scales + m + r : nullptr, task.bias ? task.bias + n : nullptr,
                             y + n * item, std::min<std::int64_t>(V::kLanes, end - n));
        }
    }
}

template <class V, DType dtype, int bits, bool symmetric, class Rows>
static void qgemm_rows(const QgemmTask& task, const Rows& x, const float* scales, std::int64_t row_bytes,
                       std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    const std::int64_t bytes = panel_bytes(task.weight, V::kPanel);
    // Blocks differ by at most one row, so that no remainder is a block with too few sums.
    const std::int64_t blocks = (task.rows + V::kRows - 1) / V::kRows;
    const std::int64_t chunk = std::max<std::int64_t>(1, kChunkBytes / (row_bytes * V::kRows));
    const std::int64_t together = blocks == 1 ? panels_together<V>(task.rows) : 1;
    for (std::int64_t block = 0; block < blocks; block += chunk) {
        const std::int64_t last = std::min(block + chunk, blocks);
        for (std::int64_t n = begin; n < end;) {
            std::int64_t taken = together;
            while (taken > 1 && n + (taken - 1) * V::kPanel >= end) taken /= 2;
            const std::uint8_t* data = scratch;
            if (task.panels) {
                data = task.panels + n / V::kPanel * bytes;
            } else {
                for (std::int64_t p = 0; p < taken; ++p) {
                    prepack_panel<V, bits>(task.weight, n + p * V::kPanel, scratch + p * bytes);
                }
            }
            const Panels w{task.weight, data, bytes};
            for (std::int64_t b = block; b < last; ++b) {
                const std::int64_t m = task.rows * b / blocks, next = task.rows * (b + 1) / blocks;
                dispatch_rows<V::kRows>(next - m, [&](auto fixed) {
                    constexpr int rows = fixed.value, most = panels_together<V>(rows), half = most / 2 + most % 2;
                    if (taken == most) {
                        multiply<V, dtype, bits, symmetric, rows, most>(task, x.from(m), scales, w, m, n, end);
                    } else if (taken == half) {
                        multiply<V, dtype, bits, symmetric, rows, half>(task, x.from(m), scales, w, m, n, end);
                    } else {
                        multiply<V, dtype, bits, symmetric, rows, 1>(task, x.from(m), scales, w, m, n, end);
                    }
                });
            }
            n += taken * V::kPanel;
        }
    }
}

template <class V, Activation activation, DType dtype, int bits, bool symmetric>
static void qgemm_form(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    if constexpr (activation == Activation::int8) {
        const QuantizedRows rows = quantized_rows(task, const_cast<std::uint8_t*>(task.activations));
        const Int8Rows x{rows.codes, rows.offsets, rows.stride, rows.spans};
        qgemm_rows<V, dtype, bits, symmetric>(task, x, rows.scales, rows.stride, begin, end, scratch);
    } else {
        const bool widened = dtype == DType::bfloat16;
        const std::int64_t stride = (widened ? round_up(task.weight.columns, 16) : task.x_stride) * 4;
        const ExactRows x{widened ? reinterpret_cast<const char*>(task.activations) : static_cast<const char*>(task.x),
                          stride, 0};
        qgemm_rows<V, dtype, bits, symmetric>(task, x, nullptr, task.weight.columns * 4, begin, end, scratch);
    }
}

template <class V, Activation activation, DType dtype, int bits>
static void qgemm(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    if (task.weight.zeros) {
        qgemm_form<V, activation, dtype, bits, false>(task, begin, end, scratch);
    } else {
        qgemm_form<V, activation, dtype, bits, true>(task, begin, end, scratch);
    }
}

}  // namespace tqs::panel
