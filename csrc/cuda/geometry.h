// Sizes that the kernels on prepacked weights (device/gemv.cuh, device/tiles.cuh) and whoever launches them agree on.
#pragma once

#include "cuda/layout.h"

namespace tqs::cuda {

inline constexpr int kGemvRows = 8;  // of a fragment
inline constexpr int kGemvWarps = 8;
inline constexpr int kGemvThreads = 32 * kGemvWarps;
inline constexpr int kGemvAhead = 2;
inline constexpr int kGemvSums = kTileRows * kGemvRows;  // of a fragment
static constexpr int gemv_sums(int columns) {
    return kTileRows * columns;
}

// group: inputs per scale; 0 for int8 rows with one scale per channel. (16-bit rows take 128 there.)
static constexpr int groups_per_unit(int group) {
    return group == 0 ? 1 : kUnitInputs / group;
}

// Inputs of a row from the beginning of a unit on: within an int for all rows there are (plan.h), which bytes are not.
static constexpr int inputs_left(int inputs, int unit) {
    return inputs - unit * kUnitInputs;
}
static_assert(inputs_left(1 << 30, (1 << 23) - 1) == kUnitInputs);

// The most rows of x of a block: two fragments of int8 rows in groups. Those of 32 have too many scales for registers.
static constexpr int gemv_columns(bool int8, int group) {
    return int8 && group > 32 ? 2 * kGemvRows : kGemvRows;
}

// Spans that are added at once: all units on the way.
static constexpr int gemv_spans(int group) {
    return kGemvAhead * kGemvWarps * groups_per_unit(group);
}

// Parts (or the sums of the warps), then the pairs of scales that belong to them.
static constexpr int gemv_shared_bytes(bool int8, int group, int columns) {
    const int parts = int8 && group != 0 ? gemv_spans(group) : kGemvWarps;
    return parts * (gemv_sums(columns) * 4 + 8 * 4);
}

inline constexpr int kTilesWarps = 4;
inline constexpr int kTilesThreads = 32 * kTilesWarps;

static constexpr int tiles_each(bool int8, int group) {
    return int8 && group != 0 ? 1 : 2;
}
// Tiles of outputs per block.
static constexpr int tiles_per_block(bool int8, int group) {
    return kTilesWarps * tiles_each(int8, group);
}
// 25 KiB of weights or more on their way per multiprocessor, and at 64 columns two blocks in 164 KiB.
static constexpr int tiles_stages(int columns) {
    return columns > 32 ? 3 : 4;
}

// Byte offsets within a stage. group as in gemv.cuh.
struct Stage {
    int codes, x, scales, zeros, sums, bytes;
};
static constexpr Stage tiles_stage(bool int8, int bits, int group, int columns) {
    const int tiles = tiles_per_block(int8, group), groups = group == 0 ? 1 : kUnitInputs / group;
    const int x = tiles * kTileRows * kUnitInputs * bits / 8;
    const int scales = x + columns * kUnitInputs * (int8 ? 1 : 2);
    const int zeros = scales + tiles * groups * kTileRows * 2;
    const int sums = zeros + tiles * groups * kTileRows;
    return {0, x, scales, zeros, sums, (sums + (int8 ? groups * columns * 4 : 0) + 127) / 128 * 128};
}
static constexpr int tiles_shared_bytes(bool int8, int bits, int group, int columns) {
    return tiles_stages(columns) * tiles_stage(int8, bits, group, columns).bytes;
}

// Two warpgroups multiply, the first warp of a third fills stages. A block begins with 168 registers per thread, all
// that a multiprocessor has.
inline constexpr int kMultiplyingWarps = 8;
inline constexpr int kWarpgroupsThreads = 32 * (kMultiplyingWarps + 4);
inline constexpr int kMultiplyingRegisters = 232, kFillingRegisters = 40;
static_assert(32 * kMultiplyingWarps * kMultiplyingRegisters + 128 * kFillingRegisters <= 168 * kWarpgroupsThreads);
inline constexpr int kWarpgroupsTiles = kMultiplyingWarps;  // of outputs per block, one per warp
inline constexpr int kClusterBlocks = 2;                    // neighbours in outputs, which share rows of x

// x leads: its atoms are aligned to 1024 bytes.
static constexpr Stage warpgroups_stage(bool int8, int bits, int group, int columns) {
    const int groups = group == 0 ? 1 : kUnitInputs / group;
    const int codes = columns * kUnitInputs * (int8 ? 1 : 2);
    const int scales = codes + kWarpgroupsTiles * kTileRows * kUnitInputs * bits / 8;
    const int zeros = scales + kWarpgroupsTiles * groups * kTileRows * 2;
    const int sums = zeros + kWarpgroupsTiles * groups * kTileRows;
    return {codes, 0, scales, zeros, sums, (sums + (int8 ? groups * columns * 4 : 0) + 1023) / 1024 * 1024};
}
// As many as the shared memory of sm_90 holds (227 KiB; one block per multiprocessor), up to kMost: more do not help.
static constexpr int warpgroups_stages(bool int8, int bits, int group, int columns) {
    constexpr int kMost = 6, kShared = 224 << 10;
    const int fitting = kShared / warpgroups_stage(int8, bits, group, columns).bytes;
    return fitting < kMost ? fitting : kMost;
}
// Stages start at a multiple of 1024; barriers come last.
static constexpr int warpgroups_shared_bytes(bool int8, int bits, int group, int columns) {
    const int stages = warpgroups_stages(int8, bits, group, columns);
    return 1024 + stages * warpgroups_stage(int8, bits, group, columns).bytes + 128;
}

}  // namespace tqs::cuda
