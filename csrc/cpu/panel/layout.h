// The shapes in which the vector ISAs hold weights and activations.
//
// A weight is cut into panels of P consecutive output rows (P = Vector::kPanel), and a panel into spans of inputs
// (quant/format.h). One span after the other, each
//
//   scales  uint16 [P]     bfloat16; 0 for rows beyond N
//   zeros   uint8 [P]      asymmetric weights only
//   words   uint32 [W, P]  word w of row j: codes w C ... w C + C - 1 of the row's span, lowest bits first, C = 32 /
//                          bits; zero beyond K
//
// with scales and zeros padded to 64 bytes each. The words are those of the portable bitstream (quant/format.h), row
// and column exchanged: lane j of a vector then works for output j, there is no sum across lanes, and a shift by `bits`
// brings the next code of every lane. 3 bits are stored as 4, whose words hold whole codes. Memory: that of the
// portable form (3 bits: that of 4), padded to P rows, and 2 to 3 bytes per row and span.
//
// Activations of Activation::int8, in one block:
//
//   codes   int8 [M, Kq]     Kq = K rounded up to 64, zero beyond K. The order within C inputs is that in which the
//                            bytes of a word, shifted by 0, bits, 2 bits ..., hold their codes: i C' + p at 4 p + i,
//                            i = 0 ... 3, C' = C / 4
//   scales  float [M]
//   offsets int32 [M, S]     -sum of the codes of each span; for symmetric weights times their zero point, so that it
//                            starts the integer sums
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/kernel_table.h"
#include "quant/format.h"

namespace tqs::panel {

static constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static constexpr int stored_bits(int bits) {
    return bits == 3 ? 4 : bits;
}

// C
static constexpr int codes_per_word(int bits) {
    return 32 / stored_bits(bits);
}

// One span's place in a panel, and the inputs that it covers.
struct Span {
    std::int64_t index, first, count, words;
    const std::uint8_t* scales;
    const std::uint8_t* zeros;  // null for the symmetric form
    const std::uint8_t* codes;
};

static constexpr std::int64_t span_words(const PackedView& weight, std::int64_t count) {
    const std::int64_t per_word = codes_per_word(weight.bits);
    return (count + per_word - 1) / per_word;
}

static constexpr std::int64_t scale_bytes(std::int64_t panel) {
    return round_up(panel * 2, 64);
}

static constexpr std::int64_t zero_bytes(const PackedView& weight, std::int64_t panel) {
    return weight.zeros ? round_up(panel, 64) : 0;
}

static constexpr std::int64_t span_bytes(const PackedView& weight, std::int64_t panel, std::int64_t count) {
    return scale_bytes(panel) + zero_bytes(weight, panel) + span_words(weight, count) * panel * 4;
}

static constexpr std::int64_t panel_bytes(const PackedView& weight, std::int64_t panel) {
    const std::int64_t spans = span_count(weight), width = span_width(weight);
    return (spans - 1) * span_bytes(weight, panel, width) +
           span_bytes(weight, panel, weight.columns - (spans - 1) * width);
}

static inline Span span_at(const PackedView& weight, std::int64_t panel, const std::uint8_t* data, std::int64_t index) {
    const std::int64_t width = span_width(weight), first = index * width;
    const std::int64_t count = std::min(width, weight.columns - first);
    const std::uint8_t* scales = data + index * span_bytes(weight, panel, width);
    const std::uint8_t* zeros = scales + scale_bytes(panel);
    return {index,
            first,
            count,
            span_words(weight, count),
            scales,
            weight.zeros ? zeros : nullptr,
            zeros + zero_bytes(weight, panel)};
}

struct QuantizedRows {
    std::int8_t* codes;
    float* scales;
    std::int32_t* offsets;
    std::int64_t stride, spans;
};

static constexpr std::int64_t quantized_bytes(const QgemmTask& task) {
    return task.rows * (round_up(task.weight.columns, 64) + 4 + span_count(task.weight) * 4);
}

static inline QuantizedRows quantized_rows(const QgemmTask& task, std::uint8_t* data) {
    const std::int64_t stride = round_up(task.weight.columns, 64);
    auto* scales = reinterpret_cast<float*>(data + task.rows * stride);
    return {reinterpret_cast<std::int8_t*>(data), scales, reinterpret_cast<std::int32_t*>(scales + task.rows), stride,
            span_count(task.weight)};
}

}  // namespace tqs::panel
