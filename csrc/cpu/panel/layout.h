// The shapes in which the vector ISAs hold weights and activations.
//
// A weight is cut into panels of P consecutive output rows (P = Vector::kPanel), and a panel into spans of inputs
// (quant/format.h). One span after the other, each
//
//   scales  uint16 [P]     bfloat16; 0 for rows beyond N
//   zeros   uint8 [P]      asymmetric weights only
//   words   uint32 [W, P]  word w of row j: C fields of F bits, lowest first, C F = 32; field c is code w C + c of the
//                          row's span, zero beyond K. F is the bits of a code, but 4 for 3 bits
//
// with zeros padded to 2 P bytes, a vector. Unless a code has 3 bits, the words are those of the portable bitstream
// (quant/format.h), row and column exchanged: lane j of a vector then works for output j, there is no sum across lanes,
// and a shift by F brings the next code of every lane. 3 bits: of every four such words, whose fields have a bit to
// spare, the first three are stored; bit b of code c of the fourth is the spare bit of field c of word b (b = 0, 1, 2).
// Memory: that of the portable form, padded to P rows and to whole words (or threes of them), and 2 or 4 bytes per row
// and span.
//
// Activations are cut into blocks of at most kRows rows (row_blocks), which differ by at most one. A block of R rows is
//
//   words  uint32 [Kw, R]   exact: a word is an input as float32; pairs: two as bfloat16; int8: four codes. In the
//   order
//                           in which a word of the weight, shifted by 0, F, 2 F ..., has its codes at the bottom of
//                           its T equal parts, T inputs a word: of C inputs, i C / T + p at T p + i, i = 0 ... T - 1.
//                           Zero beyond K; Kw = K rounded up to C (3 bits: 4 C), over T.
//
// so that a product reads it from front to back with one pointer, wherever the rows of x lie. Block after block, then
// for int8
//
//   scales  float [M]
//   offsets int32 [S, R] of each block: -sum of the codes of each span of a row; for symmetric weights times their zero
//                           point, so that it starts the integer sums. Zero points count from
//                           V::code_offset(bits), as the codes do that the dot products take
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/kernel_table.h"
#include "quant/format.h"

namespace tqs::panel {

static constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// F
static constexpr int field_bits(int bits) {
    return bits == 3 ? 4 : bits;
}

// C
static constexpr int codes_per_word(int bits) {
    return 32 / field_bits(bits);
}

// What is stored together: so many codes in so many words.
static constexpr int unit_codes(int bits) {
    return bits == 3 ? 32 : codes_per_word(bits);
}
static constexpr int unit_words(int bits) {
    return bits == 3 ? 3 : 1;
}

static constexpr std::int64_t span_words(const PackedView& weight, std::int64_t count) {
    const std::int64_t codes = unit_codes(weight.bits);
    return (count + codes - 1) / codes * unit_words(weight.bits);
}

static constexpr std::int64_t scale_bytes(std::int64_t panel) {
    return panel * 2;
}

static constexpr std::int64_t zero_bytes(const PackedView& weight, std::int64_t panel) {
    return weight.zeros ? panel * 2 : 0;
}

static constexpr std::int64_t span_bytes(const PackedView& weight, std::int64_t panel, std::int64_t count) {
    return scale_bytes(panel) + zero_bytes(weight, panel) + span_words(weight, count) * panel * 4;
}

static constexpr std::int64_t panel_bytes(const PackedView& weight, std::int64_t panel) {
    const std::int64_t spans = span_count(weight), width = span_width(weight);
    return (spans - 1) * span_bytes(weight, panel, width) +
           span_bytes(weight, panel, weight.columns - (spans - 1) * width);
}

// Blocks of rows and where they begin.
struct RowBlocks {
    std::int64_t rows, count;

    std::int64_t begin(std::int64_t block) const { return rows * block / count; }
    std::int64_t of_row(std::int64_t row) const { return ((row + 1) * count - 1) / rows; }
};

template <class V>
static constexpr RowBlocks row_blocks(const QgemmTask& task) {
    return {task.rows, (task.rows + V::kRows - 1) / V::kRows};
}

// T
static constexpr std::int64_t codes_per_term(Activation activation) {
    return activation == Activation::exact ? 1 : activation == Activation::pairs ? 2 : 4;
}

// Kw
static constexpr std::int64_t words_per_row(const PackedView& weight, Activation activation) {
    return round_up(weight.columns, unit_codes(weight.bits)) / codes_per_term(activation);
}

template <Activation activation>
static std::int64_t activation_bytes(const QgemmTask& task) {
    const std::int64_t beside = activation == Activation::int8 ? 1 + span_count(task.weight) : 0;
    return task.rows * (words_per_row(task.weight, activation) + beside) * 4;
}

// Word of the first scale, and of the first offset of the block that begins with row m.
static constexpr std::int64_t scales_at(std::int64_t rows, std::int64_t row_words) {
    return rows * row_words;
}

static constexpr std::int64_t offsets_at(std::int64_t rows, std::int64_t row_words, std::int64_t spans,
                                         std::int64_t m) {
    return scales_at(rows, row_words) + rows + m * spans;
}

}  // namespace tqs::panel
