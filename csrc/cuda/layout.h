// THE text of the shapes in which the GPU holds weights and int8 activations. Made on the device (device/prepack.cuh,
// device/quantize_rows.cuh), opaque to callers, never stored: the portable form (quant/format.h) is what is saved.
//
// A weight is the left operand of the tensor instructions, y^T [N, M] = W [N, K] x^T [K, M]: a batch of one row then
// fills an eighth of an instruction's columns and not a sixteenth of its rows, and a thread holds results of the two
// rows whose scales it needs. 2 and 3 bits are stored as 4. N is cut into *tiles* of 16 rows and K into *blocks* of 64
// inputs, padded to an even number of blocks (a *unit* of 128 inputs, what a pipeline stage holds). Lane 4 r + t of a
// warp (r < 8, t < 4) holds, of every block, rows r and r + 8 of the tile, and inputs
//
//     32 h + 8 t + 4 s + j        h, s in {0, 1}, j < 4
//
// so that its inputs are whole runs of 8: of 16-bit activations it needs two vectors of 16 bytes per block. Step 2 h +
// s is one m16n8k16 instruction; both steps of an h are one m16n8k32. No step leaves a group of 32.
//
//   codes   [tile][block][lane] vectors of 16 bytes, a warp's load 512 contiguous bytes
//           4 bits  one vector, word 2 h + s: nibble i is row r + 8 (i mod 2), input j(i) = 0 0 2 2 1 1 3 3
//           8 bits  two vectors, vector h: words (s, row) = (0, r) (0, r + 8) (1, r) (1, r + 8), byte i is input
//                   j = 0 2 1 3
//           The order of j makes (word >> 4 p) & 0x000F000F the pair of neighbouring inputs that 16-bit instructions
//           want in one register, and (word >> 4 p) & 0x0F0F0F0F the four of one row that 8-bit instructions want.
//   scales  uint32 [tile][group][r]: bfloat16 scale of row r below, of row r + 8 above; groups of the padded K, or 1
//   zeros   uint16 [tile][group][r]: likewise, one byte each; asymmetric weights only
//
// Padding is code 0 and scale 0. The three arrays follow one another, each at a multiple of kAlignment bytes.
//
// Int8 activations (kernel_table.h, Activation::int8) of M rows:
//
//   codes   int8 [M, Kp], Kp = K padded to units; input 32 h + 8 t + 4 s + j of a block is byte
//           16 t + 8 h + 4 s + (0 2 1 3)[j] of its 64; zero beyond K
//   scales  float [M]
//   sums    int32 [S, Mp], the sum of the codes of each span (quant/format.h), Mp = M padded to kRowPadding
//
// *Arranged* activations are what the products of warpgroups read (device/warpgroup_instructions.cuh): cut along K into
// slabs of 128 bytes (64 inputs of 16 bits, a unit of int8), and those into atoms of 8 rows. Row m of a slab is row m
// mod 8 of atom m / 8, vector v of its 16-byte vectors at v xor (m mod 8). Within a row of 64 inputs of 16 bits
//
//     input 32 h + 8 t + 4 s + 2 p + e   is element   32 h + 16 s + 8 p + 2 t + e        (e, p in {0, 1})
//
// and of int8 codes input 64 b + 32 h + 8 t + 4 s + j is byte 64 b + 32 h + 16 s + 4 t + (0 2 1 3)[j], so that the left
// operands above fit. [slab][Mp / 8][1024 bytes]; rows from M on hold anything, inputs from K on zeros. Scales and sums
// of int8 rows follow as above.
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace tqs::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kBlockInputs = 64;
inline constexpr int kUnitInputs = 128;
inline constexpr int kUnitBlocks = kUnitInputs / kBlockInputs;
inline constexpr int kRowPadding = 128;
inline constexpr std::int64_t kAlignment = 256;

static constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) {
    return (value + by - 1) / by;
}
static constexpr std::int64_t pad(std::int64_t value, std::int64_t multiple) {
    return divide_up(value, multiple) * multiple;
}

static constexpr int stored_bits(int bits) {
    return bits <= 4 ? 4 : 8;
}

// Where the arrays of a prepacked weight [N, K] lie, in bytes from its beginning.
struct WeightLayout {
    std::int64_t tiles, units, groups;
    std::int64_t scales, zeros, bytes;
};

static constexpr WeightLayout weight_layout(const PackedView& weight) {
    const std::int64_t tiles = divide_up(weight.rows, kTileRows), units = divide_up(weight.columns, kUnitInputs);
    const std::int64_t groups = weight.group_size == 0 ? 1 : units * kUnitInputs / weight.group_size;
    const std::int64_t codes = tiles * kTileRows * units * kUnitInputs * stored_bits(weight.bits) / 8;
    const std::int64_t scales = pad(codes, kAlignment);
    const std::int64_t zeros = scales + pad(tiles * groups * kTileRows * 2, kAlignment);
    const std::int64_t zero_bytes = weight.zeros ? pad(tiles * groups * kTileRows, kAlignment) : 0;
    return {tiles, units, groups, scales, zeros, zeros + zero_bytes};
}

// Where the arrays of int8 activations lie.
struct ActivationLayout {
    std::int64_t padded_columns, padded_rows;
    std::int64_t scales, sums, bytes;
};

static constexpr ActivationLayout activation_layout(const PackedView& weight, std::int64_t rows, bool arranged) {
    const std::int64_t columns = pad(weight.columns, kUnitInputs), padded = pad(rows, kRowPadding);
    const std::int64_t scales = pad((arranged ? padded : rows) * columns, kAlignment);
    const std::int64_t sums = scales + pad(rows * 4, kAlignment);
    const std::int64_t spans = weight.group_size == 0 ? span_count(weight) : columns / weight.group_size;
    return {columns, padded, scales, sums, sums + spans * padded * 4};
}

inline constexpr int kSlabBytes = 128;

// Bytes of arranged 16-bit activations.
static constexpr std::int64_t arranged_bytes(const PackedView& weight, std::int64_t rows) {
    return pad(weight.columns, kUnitInputs) * 2 * pad(rows, kRowPadding);
}

}  // namespace tqs::cuda
