// qgemm for a vector ISA. Panels of kPanel output columns, packed (layout.h), meet a block of rows; codes become
// numbers in registers, where `rows` of them share the work:
//
//                       words [W, kPanel]                 per T codes of an output (terms.h):
//                     +----------+----------+
//     x [rows, K]     |  vector  |  vector  |               2 vectors shifted and decoded,
//     r: x[r, k] ---> |part[r][0]|part[r][1]|               `rows` broadcasts of a word of x,
//                     +----------+----------+               2 rows products
//       at the end of a span: sum[r][v] += scale[v] part[r][v]
//
// A processor with two multiply-adds per cycle and a latency of four (dot products of bfloat16: six) needs eight
// (twelve) independent parts. Nine rows x 2 vectors have 18 of the 32 registers of AVX-512 (AVX2: 4 rows, 8 of 16);
// their sums wait in memory, and the end of a span is worked off beside the products of the next. Loads are half as
// many as products, decoding runs on the other units. For few rows there are too few parts, and 4 or 2 panels go side
// by side; what is left there is the reading of the words, each once.
//
// Caches. A block passes over a panel of K kPanel bits / 8 bytes (64 KiB at K = 4096, 4 bits), read from L2 by every
// block of rows but the first; x goes in chunks of at most kResidentBytes, which stay in L2 beside it while all panels
// pass. While the first block meets a panel, the next one is fetched: no prefetcher of the processor follows the words
// through the pauses that the products make (where they make none, it would only be in the way).
//
// Each lane sums its own output. There is no horizontal sum and no remainder over columns, so the bits of an output do
// not depend on M, on its place in a block, or on the thread that computes it.
#pragma once

#include <cstring>

#include "cpu/panel/dispatch_rows.h"
#include "cpu/panel/prepack.h"
#include "cpu/panel/terms.h"

namespace tqs::panel {

inline constexpr std::int64_t kResidentBytes = 128 * 1024;

using PrepackPanel = void (*)(const PackedView& weight, std::int64_t row, std::uint8_t* out);

// Panels side by side at `rows` rows: as many as give enough parts, while parts and codes fit the registers.
template <class V, Activation activation>
static constexpr int panels_together(std::int64_t rows) {
    constexpr int enough = activation == Activation::pairs ? 12 : 8;
    if (rows == 1) return 4;
    return 2 * rows < enough && 4 * rows + 8 <= V::kRegisters ? 2 : 1;
}

template <class V>
static std::int64_t scratch_bytes(const PackedView& weight) {
    return panels_together<V, Activation::exact>(1) * panel_bytes(weight, V::kPanel);
}

// One span of panels that lie side by side, `bytes` apart.
struct Span {
    const std::uint8_t* scales;
    const std::uint8_t* zeros;  // null for symmetric weights
    const std::uint8_t* codes;
    std::int64_t bytes;
    std::int64_t count;  // of inputs
    int zero;            // of symmetric weights
    std::int64_t ahead;  // what lies so many bytes on is fetched on the way; 0: nothing
};

template <class V>
static inline void fetch_words(const std::uint8_t* at) {
    for (int byte = 0; byte < V::kPanel * 4; byte += 64) __builtin_prefetch(at + byte);
}

// Of 3 bits, behind the three words that hold it (layout.h).
template <class V>
static inline typename V::Int fourth_word(const std::uint8_t* after) {
    constexpr int step = V::kPanel * 4;
    return V::spare_bits(V::load_int(after - 3 * step), V::load_int(after - 2 * step), V::load_int(after - step));
}

// sum[r][v] += one span, for `rows` rows, whose interleaved words are at x, and 2 `panels` vectors.
template <class V, Activation activation, int bits, bool symmetric, int rows, int panels>
static inline void add_span(const std::uint32_t* x, const Span& span,
                            typename Terms<V, activation, bits, symmetric>::Sum (&sum)[rows][2 * panels]) {
    using Here = Terms<V, activation, bits, symmetric>;
    constexpr int width = 2 * panels, per_word = codes_per_word(bits), decoders = symmetric ? 1 : width;
    // Two products per cycle, and 16 bytes per cycle at most from beyond L2, whoever asks for them.
    constexpr bool kPauses = panels == 1 && rows * (per_word / Here::kCodes) * 16 >= V::kPanel * 4;
    typename Here::Decoder decoder[decoders];
#pragma GCC unroll 16
    for (int v = 0; v < decoders; ++v) {
        decoder[v] = typename Here::Decoder(symmetric ? nullptr : span.zeros + v / 2 * span.bytes + v % 2 * V::kLanes,
                                            span.zero);
    }
    const std::uint8_t* codes = span.codes;
    for (std::int64_t k = 0; k < span.count; k += per_word) {
        typename V::Int word[width];
        const bool stored = bits != 3 || k / per_word % 4 != 3;
        if (kPauses && stored && span.ahead) fetch_words<V>(codes + span.ahead);
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            const std::uint8_t* at = codes + v / 2 * span.bytes + v % 2 * V::kLanes * 4;
            word[v] = stored ? V::load_int(at) : fourth_word<V>(at);
        }
        if (stored) codes += V::kPanel * 4;
#pragma GCC unroll 16
        for (int piece = 0; piece < per_word; piece += Here::kCodes, x += rows) {
            typename Here::Value value[width];
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) {
                value[v] = decoder[symmetric ? 0 : v](word[v]);
                word[v] = V::template shift_right<field_bits(bits)>(word[v]);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const auto broadcast = Here::broadcast(x + r);
#pragma GCC unroll 16
                for (int v = 0; v < width; ++v) sum[r][v] = Here::add(sum[r][v], value[v], broadcast);
            }
        }
    }
}

// The first `count` (at least 1) elements of `bias`, then zeros.
template <class V>
static inline typename V::Float load_bias(const float* bias, std::int64_t count) {
    if (count >= V::kLanes) return V::load_unaligned(bias);
    alignas(64) float row[V::kLanes] = {};
    std::memcpy(row, bias, static_cast<std::size_t>(count) * sizeof(float));
    return V::load(row);
}

// The first `count` (at least 1) lanes to y.
template <class V>
static inline void store_y(typename V::Float value, DType dtype, char* y, std::int64_t count) {
    const bool whole = count >= V::kLanes;
    if (dtype == DType::float32) return V::store_partial(reinterpret_cast<float*>(y), value, count);
    if (whole) return V::store_bfloat16(y, value);
    std::uint16_t rounded[V::kLanes];
    V::store_bfloat16(rounded, value);
    std::memcpy(y, rounded, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
}

// What a call computes, beside the form of its weight; sizes that take divisions, once.
struct Job {
    const QgemmTask& task;
    DType dtype;  // of y
    PrepackPanel prepack;
    std::int64_t spans, span_inputs;
    std::int64_t span_bytes, panel_bytes;
    std::int64_t row_words;  // of rewritten activations
};

// Columns [n, end), at most `panels` panels that lie at `data`, of a block of rows from m on. What lies `ahead` bytes
// on is read next.
template <class V, Activation activation, int bits, bool symmetric, int rows, int panels>
static inline void multiply(const Job& job, const std::uint8_t* data, std::int64_t m, std::int64_t n, std::int64_t end,
                            std::int64_t ahead) {
    using Part = typename Terms<V, activation, bits, symmetric>::Sum;
    constexpr int width = 2 * panels;
    constexpr bool int8 = activation == Activation::int8;
    const QgemmTask& task = job.task;
    const PackedView& weight = task.weight;
    const std::int64_t item = job.dtype == DType::float32 ? 4 : 2;
    const auto row_of_y = [&](int r) {
        return static_cast<char*>(task.y) + ((m + r) * task.y_stride + n) * item;
    };
    const std::int64_t step = job.span_bytes;
    const auto* words = reinterpret_cast<const std::uint32_t*>(task.activations);
    const std::uint32_t* x = words + m * job.row_words;
    const std::int64_t x_step = job.span_inputs / codes_per_term(activation) * rows;
    const auto* offsets =
        int8 ? reinterpret_cast<const std::int32_t*>(words) + offsets_at(task.rows, job.row_words, job.spans, m)
             : nullptr;
    typename V::Float sum[rows][width];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        char* y = row_of_y(r);  // written at the end, and often not in any cache
        for (std::int64_t at = 0; at < V::kPanel * panels * item; at += 64) __builtin_prefetch(y + at, 1);
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) sum[r][v] = V::broadcast(0.0f);
    }
    const std::uint8_t* zeros = data + scale_bytes(V::kPanel);
    Span span{data,
              symmetric ? nullptr : zeros,
              zeros + zero_bytes(weight, V::kPanel),
              job.panel_bytes,
              job.span_inputs,
              1 << (weight.bits - 1),
              ahead};
    for (std::int64_t s = 0; s < job.spans; ++s, x += x_step) {
        if (s == job.spans - 1) span.count = weight.columns - s * job.span_inputs;
        Part part[rows][width];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            Part start{};
            if constexpr (int8) start = V::broadcast_int(offsets[s * rows + r]);
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) {
                part[r][v] = start;
                if constexpr (int8) {
                    if (symmetric) continue;
                    auto zero = V::widen_bytes(span.zeros + v / 2 * span.bytes + v % 2 * V::kLanes);
                    if constexpr (V::code_offset(bits) != 0) {
                        zero = V::add_int(zero, V::broadcast_int(-V::code_offset(bits)));
                    }
                    part[r][v] = V::multiply_int(start, zero);
                }
            }
        }
        add_span<V, activation, bits, symmetric, rows, panels>(x, span, part);
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            const auto scale = V::widen(span.scales + v / 2 * span.bytes + v % 2 * V::kLanes * 2);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sum[r][v] = V::multiply_add(scale, V::to_float(part[r][v]), sum[r][v]);
            }
        }
        span.scales += step;
        if constexpr (!symmetric) span.zeros += step;
        span.codes += step;
    }
    const auto* scales =
        reinterpret_cast<const float*>(task.activations) + (int8 ? scales_at(task.rows, job.row_words) + m : 0);
    for (int v = 0; v < width && n + v * V::kLanes < end; ++v) {
        const std::int64_t at = v * V::kLanes, count = std::min<std::int64_t>(V::kLanes, end - n - at);
        const auto bias = task.bias ? load_bias<V>(task.bias + n + at, count) : V::broadcast(0.0f);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            auto value = sum[r][v];
            if constexpr (int8) {
                value = V::multiply_add(value, V::broadcast(scales[r]), bias);
            } else if (task.bias) {
                value = V::add(value, bias);
            }
            store_y<V>(value, job.dtype, row_of_y(r) + at * item, count);
        }
    }
}

template <class V, Activation activation, int bits, bool symmetric>
static void qgemm_rows(const Job& job, std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    const QgemmTask& task = job.task;
    const std::int64_t bytes = job.panel_bytes;
    const RowBlocks blocks = row_blocks<V>(task);
    const std::int64_t block_bytes = job.row_words * 4 * V::kRows;
    const std::int64_t chunk = std::max<std::int64_t>(1, kResidentBytes / block_bytes);
    const std::int64_t together = blocks.count == 1 ? panels_together<V, activation>(task.rows) : 1;
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
            std::int64_t m = blocks.begin(block);
            for (std::int64_t b = block, next = m; b < last; ++b, m = next) {
                next = blocks.begin(b + 1);
                const bool first = task.panels && b == block && n + V::kPanel < end;
                const std::int64_t ahead = first ? bytes : 0;
                dispatch_rows<V::kRows>(next - m, [&](auto fixed) {
                    constexpr int rows = fixed.value, most = panels_together<V, activation>(rows),
                                  half = most / 2 + most % 2;
                    if (taken == most) {
                        multiply<V, activation, bits, symmetric, rows, most>(job, data, m, n, end, ahead);
                    } else if (taken == half) {
                        multiply<V, activation, bits, symmetric, rows, half>(job, data, m, n, end, ahead);
                    } else {
                        multiply<V, activation, bits, symmetric, rows, 1>(job, data, m, n, end, ahead);
                    }
                });
            }
            n += taken * V::kPanel;
        }
    }
}

template <class V, Activation activation, DType dtype, int bits>
static void qgemm(const QgemmTask& task, std::int64_t begin, std::int64_t end, std::uint8_t* scratch) {
    const PackedView& weight = task.weight;
    const std::int64_t inputs = span_width(weight);
    const Job job{task,
                  dtype,
                  prepack_panel<V, bits>,
                  span_count(weight),
                  inputs,
                  span_bytes(weight, V::kPanel, inputs),
                  panel_bytes(weight, V::kPanel),
                  words_per_row(weight, activation)};
    if (task.weight.zeros) {
        qgemm_rows<V, activation, bits, false>(job, begin, end, scratch);
    } else {
        qgemm_rows<V, activation, bits, true>(job, begin, end, scratch);
    }
}

}  // namespace tqs::panel
