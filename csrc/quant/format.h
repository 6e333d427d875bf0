// THE text of the packed weight format. Everything else (kernels, tests, files on disk) follows what is written here.
//
// A weight matrix W [N, K] (N output rows, K inputs) is stored at b bits, b in {2, 3, 4, 8}, with one scale per group
// of g consecutive inputs of a row. g in {32, 64, 128}, or 0 for per-channel: one group per row. G = ceil(K / g) groups
// per row; the last may be short.
//
//   codes   uint8 [N, row_bytes], row_bytes = ceil(K b / 8). Code u[n, k] in [0, 2^b - 1] occupies bits
//           [b k, b k + b) of row n, where bit i of a row is bit i mod 8 (from the least significant) of byte i / 8.
//           Unused high bits of a row's last byte are zero. 8 codes are b whole bytes, so every group starts on a byte.
//   scales  uint16 [N, G], bfloat16 bit patterns: finite and never zero. May be negative in the symmetric form, where
//           the group's extreme value (either sign) is mapped to the code 0, the one with the largest magnitude.
//   zeros   uint8 [N, G] in [0, 2^b - 1] for the asymmetric form; absent in the symmetric form, where it is 2^(b-1).
//
//   value[n, k] = scale[n, k / g] * (u[n, k] - zero[n, k / g])       in float32
//
// The value is exact in float32: a bfloat16 has 8 significant bits and the integer at most 8, in sum at most 16 of 24.
// Packing keeps |scale| * max(zero, 2^b - 1 - zero) within float32's range, so a value is never infinite.
// A group of zeros has scale 1 and every code equal to its zero point (asymmetric: 0): zeros stay exactly zero.
// How scale and zero are chosen is no part of the format; quant/search.h states it.
#pragma once

#include <cstdint>

namespace tqs {

// One index per code width; kernel tables are arrays over it.
inline constexpr int kFormats = 4;
inline constexpr int kFormatBits[kFormats] = {2, 3, 4, 8};

// -1 for a width that is no format.
static constexpr int format_index(int bits) {
    return bits >= 2 && bits <= 4 ? bits - 2 : bits == 8 ? 3 : -1;
}

static constexpr bool is_group_size(std::int64_t group_size) {
    return group_size == 0 || group_size == 32 || group_size == 64 || group_size == 128;
}

static constexpr std::int64_t packed_row_bytes(std::int64_t columns, int bits) {
    return (columns * bits + 7) / 8;
}

static constexpr std::int64_t packed_groups(std::int64_t columns, std::int64_t group_size) {
    return group_size == 0 ? 1 : (columns + group_size - 1) / group_size;
}

// A packed matrix somebody else owns. All three arrays are contiguous, with no alignment promised for codes.
struct PackedView {
    const std::uint8_t* codes;    // [rows, row_bytes]
    const std::uint16_t* scales;  // [rows, groups], bfloat16
    const std::uint8_t* zeros;    // [rows, groups], or null for the symmetric form
    std::int64_t rows;            // N
    std::int64_t columns;         // K
    std::int64_t group_size;      // 0: per channel
    int bits;
};

// `static`: see csrc/README.md on headers that ISA folders include.
static constexpr std::int64_t row_bytes(const PackedView& packed) {
    return packed_row_bytes(packed.columns, packed.bits);
}

static constexpr std::int64_t group_count(const PackedView& packed) {
    return packed_groups(packed.columns, packed.group_size);
}

// Inputs per scale: group_size, or the whole row.
static constexpr std::int64_t group_width(const PackedView& packed) {
    return packed.group_size == 0 ? packed.columns : packed.group_size;
}

// Inputs whose integer sums are taken together (backend/kernel_table.h): a group, or of a per-channel row so many that
// 255 * 127 * kSpan fits 31 bits.
inline constexpr std::int64_t kSpan = 32768;

static constexpr std::int64_t span_width(const PackedView& packed) {
    return packed.group_size == 0 ? kSpan : packed.group_size;
}

static constexpr std::int64_t span_count(const PackedView& packed) {
    return (packed.columns + span_width(packed) - 1) / span_width(packed);
}

// The group that a span lies in.
static constexpr std::int64_t group_of_span(const PackedView& packed, std::int64_t span) {
    return packed.group_size == 0 ? 0 : span;
}

static constexpr int zero_point(const PackedView& packed, std::int64_t row, std::int64_t group) {
    return packed.zeros ? packed.zeros[row * group_count(packed) + group] : 1 << (packed.bits - 1);
}

// Throws ArgumentError unless the description is one of the format's, with its arrays present.
void check_packed(const char* function, const PackedView& packed);

}  // namespace tqs
