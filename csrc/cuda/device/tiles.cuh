// Products of more rows than an instruction has columns (and of fewer): tiles of y, K streamed through shared memory.
//
//   grid x: blocks of 4 * kEach tiles of 16 outputs     grid y: blocks of `columns` rows of x     grid z: splits of K
//   block:  4 warps; a warp has kEach tiles of outputs and all `columns` rows
//
//   stage (one unit of 128 inputs), kStages of them in a ring, filled kStages - 1 units ahead by cp.async:
//     codes   [tile] as they lie in memory         a warp reads 512 bytes in a row
//     x       [columns] rows of 8 or 16 vectors; vector v of row m lies at place v ^ 4 (m mod 2), so that the 2 rows x
//             4 vectors of a quarter warp cover all 32 banks
//     scales, zeros [tile, groups], sums [groups, columns]
//
// A group's left operands are decoded once into registers (8 steps x 4 x kEach = 64 for 128 inputs and 16-bit rows) and
// used for all rows of x, 8 at a time; a group's sums live for its length only and are then scaled into the totals
// (columns / 8 x 4 x kEach, at most 64). Integers per channel go straight into the totals. Counting all, 16-bit rows
// need some 180 registers at 64 columns: two blocks per multiprocessor.
//
// Per vector of x from shared memory (4 cycles) a warp issues 2 kEach products of 2 cycles or less each: kEach = 2
// keeps the tensor cores fed. Int8 rows in groups have kEach = 1: the definition fixes the order of their sums, K is
// not split, and outputs are what is left to share.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/operand.cuh"
#include "cuda/device/results.cuh"
#include "cuda/device/split.cuh"
#include "cuda/geometry.h"

namespace tqs::cuda {

// Issues the copies of one unit into the stage at `to`.
template <class Operand, int group, int columns>
__device__ inline void fill_stage(const Product& p, int unit, unsigned char* to) {
    constexpr Stage kStage = tiles_stage(Operand::kInt8, Operand::bits, group, columns);
    constexpr int kTiles = tiles_per_block(Operand::kInt8, group), kGroups = group == 0 ? 1 : kUnitInputs / group;
    constexpr int kTileVectors = kTileRows * Operand::bits;  // 16 bytes each, of codes
    constexpr int kRowVectors = kUnitInputs * Operand::kInputBytes / 16;
    const int thread = static_cast<int>(threadIdx.x);
    const int first_tile = static_cast<int>(blockIdx.x) * kTiles, first_row = static_cast<int>(blockIdx.y) * columns;

#pragma unroll 1
    for (int i = 0; i < kTiles * kTileVectors / kTilesThreads; ++i) {
        const int index = i * kTilesThreads + thread, tile = first_tile + index / kTileVectors;
        const bool valid = tile < p.tiles;
        const std::int64_t place = (static_cast<std::int64_t>(valid ? tile : 0) * p.units + unit) * kTileVectors;
        copy_async(to + 16 * index, p.codes + (place + index % kTileVectors) * 16, valid);
    }
#pragma unroll 1
    for (int i = 0; i < columns * kRowVectors / kTilesThreads; ++i) {
        const int index = i * kTilesThreads + thread, vector = index % kRowVectors, own = index / kRowVectors;
        const int row = first_row + own;
        const std::int64_t byte = static_cast<std::int64_t>(unit) * kUnitInputs * Operand::kInputBytes + 16 * vector;
        const bool valid = row < p.rows && byte < static_cast<std::int64_t>(p.inputs) * Operand::kInputBytes;
        copy_async(to + kStage.x + (own * kRowVectors + (vector ^ 4 * (own % 2))) * 16,
                   valid ? p.x + row * p.x_bytes + byte : p.x, valid);
    }
    if constexpr (group != 0) {
        const int first_group = p.groups == 1 ? 0 : unit * kGroups;
        constexpr int kScales = 2 * kTiles * kGroups, kZeros = kTiles * kGroups;  // vectors; both below kTilesThreads
        if (thread < kScales) {
            const int tile = first_tile + thread / (2 * kGroups);
            const bool valid = tile < p.tiles;
            const std::int64_t pairs = (static_cast<std::int64_t>(valid ? tile : 0) * p.groups + first_group) * 8;
            copy_async(to + kStage.scales + 16 * thread, p.scales + pairs + 4 * (thread % (2 * kGroups)), valid);
        }
        if (p.zeros && thread < kZeros) {
            const int tile = first_tile + thread / kGroups;
            const bool valid = tile < p.tiles;
            const std::int64_t pairs = (static_cast<std::int64_t>(valid ? tile : 0) * p.groups + first_group) * 8;
            copy_async(to + kStage.zeros + 16 * thread, p.zeros + pairs + 8 * (thread % kGroups), valid);
        }
        if constexpr (Operand::kInt8) {
            constexpr int kVectors = columns / 4;
            if (thread < kGroups * kVectors) {
                const std::int64_t from = (first_group + thread / kVectors) * p.padded_rows + first_row;
                copy_async(to + kStage.sums + 16 * thread, p.row_sums + from + 4 * (thread % kVectors), true);
            }
        }
    }
}

// Adds the unit in the stage at `from` to the totals [kEach, columns / 8, 4] of this lane.
template <class Operand, int group, int columns, class Total, int kEach>
__device__ inline void multiply_stage(const Product& p, const unsigned char* from,
                                      Total (&total)[kEach][columns / 8][4]) {
    constexpr Stage kStage = tiles_stage(Operand::kInt8, Operand::bits, group, columns);
    constexpr int kGroups = group == 0 ? 1 : kUnitInputs / group, kOperands = Operand::kOperands / kGroups;
    constexpr int kRowVectors = kUnitInputs * Operand::kInputBytes / 16;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int r = lane / 4, t = lane % 4;

    std::uint32_t codes[kEach][2 * Operand::bits];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const unsigned char* tile = from + (warp * kEach + e) * (kTileRows * Operand::bits * 16);
#pragma unroll
        for (int v = 0; v < Operand::bits / 2; ++v) {
            const Vector vector = load_from_shared(tile + v * 512 + lane * 16);
#pragma unroll
            for (int i = 0; i < 4; ++i) codes[e][4 * v + i] = vector.words[i];
        }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
        std::uint32_t a[kEach][kOperands][4], zeros[kEach] = {};
        float scales[kEach][2] = {};
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            const int pair = ((warp * kEach + e) * kGroups + g) * 8 + r;
            if constexpr (group != 0) {
                const std::uint32_t both = reinterpret_cast<const std::uint32_t*>(from + kStage.scales)[pair];
                scales[e][0] = scale_of(both, 0);
                scales[e][1] = scale_of(both, 1);
                zeros[e] = p.zeros ? reinterpret_cast<const std::uint16_t*>(from + kStage.zeros)[pair]
                                   : static_cast<std::uint32_t>(p.zero) * 0x101u;
            }
#pragma unroll
            for (int q = 0; q < kOperands; ++q) {
                Operand::decode_operand(codes[e], g * kOperands + q, zeros[e], a[e][q]);
            }
        }
#pragma unroll
        for (int m = 0; m < columns / 8; ++m) {
            std::uint32_t b[kOperands][2];
            const unsigned char* x = from + kStage.x + (8 * m + r) * (kRowVectors * 16);
#pragma unroll
            for (int q = 0; q < kOperands; ++q) {
                const int operand = g * kOperands + q, vector = 4 * (operand / 2) + t;
                if (q % 2 == 0) {  // of a vector with two operands, the first brings both
                    const Vector both = load_from_shared(x + (vector ^ 4 * (r % 2)) * 16);
                    b[q][0] = both.words[2 * (operand % 2)];
                    b[q][1] = both.words[2 * (operand % 2) + 1];
                    if (q + 1 < kOperands) {
                        b[q + 1][0] = both.words[2];
                        b[q + 1][1] = both.words[3];
                    }
                }
            }
            if constexpr (group == 0) {
#pragma unroll
                for (int q = 0; q < kOperands; ++q) {
#pragma unroll
                    for (int e = 0; e < kEach; ++e) Operand::multiply(total[e][m], a[e][q], b[q]);
                }
            } else {
                int sums[2] = {};
                if constexpr (Operand::kInt8) {
                    const auto* own = reinterpret_cast<const int*>(from + kStage.sums) + g * columns + 8 * m + 2 * t;
                    sums[0] = own[0];
                    sums[1] = own[1];
                }
                typename Operand::Sum part[kEach][4];
#pragma unroll
                for (int e = 0; e < kEach; ++e) Operand::start(part[e], zeros[e], sums);
#pragma unroll
                for (int q = 0; q < kOperands; ++q) {
#pragma unroll
                    for (int e = 0; e < kEach; ++e) Operand::multiply(part[e], a[e][q], b[q]);
                }
#pragma unroll
                for (int e = 0; e < kEach; ++e) {
#pragma unroll
                    for (int c = 0; c < 4; ++c) {
                        const auto value = static_cast<float>(part[e][c]);
                        total[e][m][c] = fused(scales[e][c / 2], value, total[e][m][c]);
                    }
                }
            }
        }
    }
}

// group as in gemv.cuh. columns: 16, 32 or 64.
template <class Operand, int group, int columns>
__global__ void __launch_bounds__(kTilesThreads) tiles(const Product p) {
    constexpr bool kWhole = Operand::kInt8 && group == 0;  // totals are integers
    using Total = std::conditional_t<kWhole, int, float>;
    constexpr int kEach = tiles_each(Operand::kInt8, group), kStages = tiles_stages(columns);
    constexpr int kStageBytes = tiles_stage(Operand::kInt8, Operand::bits, group, columns).bytes;
    constexpr int kCount = kEach * (columns / 8) * 4;
    unsigned char* shared = shared_memory();
    const Range range = split_range(p);

    Total totals[kEach][columns / 8][4] = {};
#pragma unroll
    for (int ahead = 0; ahead < kStages - 1; ++ahead) {
        if (range.begin + ahead < range.end) {
            fill_stage<Operand, group, columns>(p, range.begin + ahead, shared + ahead * kStageBytes);
        }
        commit_copies();
    }
    int stage = 0;
    for (int unit = range.begin; unit < range.end; ++unit) {
        wait_copies<kStages - 2>();
        block_barrier();  // everybody's copies of this unit are there, and nobody reads the unit before it any more
        const int ahead = unit + kStages - 1;
        if (ahead < range.end) {
            const int free = stage == 0 ? kStages - 1 : stage - 1;
            fill_stage<Operand, group, columns>(p, ahead, shared + free * kStageBytes);
        }
        commit_copies();
        multiply_stage<Operand, group, columns>(p, shared + stage * kStageBytes, totals);
        stage = stage + 1 == kStages ? 0 : stage + 1;
    }

    if (p.splits > 1) {
        Total flat[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) flat[i] = totals[i / (columns / 2)][i / 4 % (columns / 8)][i % 4];
        const int block = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
        if (!combine_splits<kTilesThreads>(p, block, kTilesThreads, flat)) return;
#pragma unroll
        for (int i = 0; i < kCount; ++i) totals[i / (columns / 2)][i / 4 % (columns / 8)][i % 4] = flat[i];
    }

    const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        write_results<Operand, kWhole>(p, (static_cast<int>(blockIdx.x) * kTilesWarps + warp) * kEach + e,
                                       static_cast<int>(blockIdx.y) * columns, totals[e]);
    }
}

}  // namespace tqs::cuda
