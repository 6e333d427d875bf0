// Products of few rows: what counts is how fast the weight is read.
//
//   grid x: tiles of 16 outputs     grid y: blocks of 8 or 16 rows of x     grid z: splits of K (split.cuh)
//   block:  8 warps; warp w takes units w, w + 8, w + 16 ... of the split
//
// A warp reads weights and x into registers kAhead units before it uses them. One unit of 4-bit weights is 1 KiB per
// warp: with 16 warps per multiprocessor (2 blocks, below 128 registers a thread) and two units ahead 32 KiB are on
// their way, where 4.8 TB/s x 700 ns / 132 multiprocessors asks for 25. x comes through L1, which blocks that run side
// by side on a multiprocessor share: they walk through K together.
//
// The tensor instruction has 8 columns, so one row costs as much as eight and M does not matter. It is no limit: at
// 20 bytes (40 codes) a cycle per multiprocessor there is one m16n8k16 in 6 cycles, of which the slowest takes 2. Issue
// nearly is one: a unit of 4 bits and one group is there in 50 cycles, and takes some 155 instructions of a warp
// (sm_90a, nvcc 13.0) of 200 that can be issued, 76 of them on the integer pipe of 100.
//
// Sums of 16-bit rows: a warp adds its groups in order, then the warps are added in order. Int8 rows of one scale per
// channel: integers until the end. Int8 rows of groups: one float per group, which thread (n, m) adds in the order of K
// as the definition has it (kernel_table.h), so K is not split among blocks; shared by warps it is here, which makes
// this the kernel for few outputs also of more than 8 rows: of 16 (two *fragments*) a warp decodes a weight once.
#pragma once

#include <cstdint>

#include "cuda/device/operand.cuh"
#include "cuda/device/split.cuh"
#include "cuda/geometry.h"

namespace tqs::cuda {

// Where a lane finds its part of unit 0. Lanes of columns that have no row of x take the last row's: what becomes of
// them is not written.
template <class Operand, int group, int fragments>
struct GemvLane {
    const unsigned char* codes;
    const unsigned char* x[fragments];
    const std::uint32_t* scales;
    const std::uint16_t* zeros;  // null: `zero` everywhere
    const std::int32_t* sums;
    std::uint32_t zero;
    int first;  // byte of the unit that x points to

    __device__ GemvLane(const Product& p, int lane, int first_row) {
        const std::int64_t tile = blockIdx.x, pairs = tile * p.groups * 8 + lane / 4;
        first = 16 * (lane % 4);
#pragma unroll
        for (int f = 0; f < fragments; ++f) {
            const int row = first_row + 8 * f + lane / 4;
            x[f] = p.x + (row < p.rows ? row : p.rows - 1) * p.x_bytes + first;
        }
        codes = p.codes + (tile * p.units * (Operand::bits / 2) * 32 + lane) * 16;
        scales = p.scales + pairs;
        zeros = p.zeros ? p.zeros + pairs : nullptr;
        sums = p.row_sums + first_row + 2 * (lane % 4);
        zero = static_cast<std::uint32_t>(p.zero) * 0x101u;
    }
};

// What a lane holds of one unit.
template <class Operand, int group, int fragments>
struct GemvUnit {
    static constexpr int kGroups = groups_per_unit(group);
    static constexpr int kCodeBytes = Operand::bits / 2 * 512, kInputBytes = kUnitInputs * Operand::kInputBytes;
    std::uint32_t codes[2 * Operand::bits];
    std::uint32_t x[fragments][2 * Operand::kOperands];
    std::uint32_t scales[kGroups], zeros[kGroups];
    int sums[fragments][kGroups][2];

    // Addresses are one multiply-add each: instructions are scarce here.
    __device__ void load(const Product& p, const GemvLane<Operand, group, fragments>& own, int unit) {
        const unsigned char* from = own.codes + std::int64_t{unit} * kCodeBytes;
#pragma unroll
        for (int v = 0; v < Operand::bits / 2; ++v) {
            const Vector vector = load_streamed(from + v * 512);
#pragma unroll
            for (int i = 0; i < 4; ++i) codes[4 * v + i] = vector.words[i];
        }
        const int left = inputs_left(p.inputs, unit);
#pragma unroll
        for (int f = 0; f < fragments; ++f) {
            const unsigned char* inputs = own.x[f] + std::int64_t{unit} * kInputBytes;
            if (left >= kUnitInputs) {
#pragma unroll
                for (int v = 0; v < Operand::kOperands / 2; ++v) take(f, v, load_shared_data(inputs + 64 * v));
            } else {
#pragma unroll
                for (int v = 0; v < Operand::kOperands / 2; ++v) {
                    const bool inside = own.first + 64 * v < left * Operand::kInputBytes;
                    take(f, v, inside ? load_shared_data(inputs + 64 * v) : Vector{});
                }
            }
        }
        const int first = p.groups == 1 ? 0 : unit * kGroups;
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
            const std::int64_t pair = std::int64_t{first + i} * 8;
            if (group != 0) scales[i] = load_word(own.scales + pair);
            zeros[i] = own.zeros ? load_half_word(own.zeros + pair) : own.zero;
            if (Operand::kInt8 && group != 0) {
                const std::int32_t* from_sums = own.sums + (first + i) * p.padded_rows;
#pragma unroll
                for (int f = 0; f < fragments; ++f) {
                    sums[f][i][0] = from_sums[8 * f];
                    sums[f][i][1] = from_sums[8 * f + 1];
                }
            }
        }
    }

    __device__ void take(int f, int v, const Vector& vector) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[f][4 * v + i] = vector.words[i];
    }

    // The sums of group i of the unit, on top of c.
    __device__ void add(typename Operand::Sum (&c)[fragments][4], int i) const {
        constexpr int kEach = Operand::kOperands / kGroups;
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
            const int q = i * kEach + j;
            std::uint32_t a[4];
            Operand::decode_operand(codes, q, zeros[i], a);
#pragma unroll
            for (int f = 0; f < fragments; ++f) {
                const std::uint32_t b[2] = {x[f][2 * q], x[f][2 * q + 1]};
                Operand::multiply(c[f], a, b);
            }
        }
    }
};

// columns: rows of x per block, 8 or 16 (gemv_columns).
template <class Operand, int group, int columns>
__global__ void __launch_bounds__(kGemvThreads, 2) gemv(const Product p) {
    using Sum = typename Operand::Sum;
    constexpr int kGroups = groups_per_unit(group);
    constexpr int kSpans = gemv_spans(group);
    constexpr bool kOrdered = Operand::kInt8 && group != 0;
    constexpr int kFragments = columns / kGemvRows, kSums = gemv_sums(columns);
    static_assert(kFragments == 1 || kOrdered);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int first_row = static_cast<int>(blockIdx.y) * columns;
    const Range range = split_range(p);
    auto* parts = reinterpret_cast<Sum*>(shared_memory());  // [spans or warps, kSums], by fragment, lane and sum
    auto* part_scales = reinterpret_cast<std::uint32_t*>(parts + kSpans * kSums);  // [spans, 8]

    // Sum `thread` of the block: sum thread % 4 of lane thread / 4 % 32 of fragment thread / 128.
    const int low = thread / 16 % 8, high = thread / 2 % 2;
    const int row = first_row + thread / kGemvSums * 8 + 2 * (thread / 4 % 4) + thread % 2;

    Sum total[kFragments][4] = {};
    float chain = 0.0f;  // kOrdered
    const GemvLane<Operand, group, kFragments> own(p, lane, first_row);
    GemvUnit<Operand, group, kFragments> units[kGemvAhead];
#pragma unroll
    for (int a = 0; a < kGemvAhead; ++a) {
        const int unit = range.begin + a * kGemvWarps + warp;
        if (unit < range.end) units[a].load(p, own, unit);
    }
    for (int base = range.begin; base < range.end; base += kGemvAhead * kGemvWarps) {
#pragma unroll
        for (int a = 0; a < kGemvAhead; ++a) {
            const int unit = base + a * kGemvWarps + warp;
            if (unit < range.end) {
                if constexpr (Operand::kInt8 && group == 0) {
                    units[a].add(total, 0);
                } else {
#pragma unroll
                    for (int i = 0; i < kGroups; ++i) {
                        Sum part[kFragments][4];
#pragma unroll
                        for (int f = 0; f < kFragments; ++f) {
                            Operand::start(part[f], units[a].zeros[i], units[a].sums[f][i]);
                        }
                        units[a].add(part, i);
                        if constexpr (kOrdered) {
                            const int span = (a * kGemvWarps + warp) * kGroups + i;
#pragma unroll
                            for (int f = 0; f < kFragments; ++f) {
                                auto* out = reinterpret_cast<Vector*>(parts + span * kSums + f * kGemvSums) + lane;
                                *out = {{static_cast<std::uint32_t>(part[f][0]), static_cast<std::uint32_t>(part[f][1]),
                                         static_cast<std::uint32_t>(part[f][2]),
                                         static_cast<std::uint32_t>(part[f][3])}};
                            }
                            if (lane % 4 == 0) part_scales[span * 8 + lane / 4] = units[a].scales[i];
                        } else {
#pragma unroll
                            for (int c = 0; c < 4; ++c) {
                                total[0][c] = fused(scale_of(units[a].scales[i], c / 2), part[0][c], total[0][c]);
                            }
                        }
                    }
                }
            }
            if (unit + kGemvAhead * kGemvWarps < range.end) {
                units[a].load(p, own, unit + kGemvAhead * kGemvWarps);
            }
        }
        if constexpr (kOrdered) {
            block_barrier();
            if (thread < kSums) {
                const int left = (range.end - base) * kGroups;
                const int spans = left < kSpans ? left : kSpans;
                for (int span = 0; span < spans; ++span) {
                    const float scale = scale_of(part_scales[span * 8 + low], high);
                    chain = fused(scale, from_int(static_cast<int>(parts[span * kSums + thread])), chain);
                }
            }
            block_barrier();
        }
    }

    const int output = static_cast<int>(blockIdx.x) * kTileRows + low + 8 * high;
    Sum sum[1] = {};
    if constexpr (!kOrdered) {
#pragma unroll
        for (int c = 0; c < 4; ++c) parts[warp * kGemvSums + 4 * lane + c] = total[0][c];
        block_barrier();
        if (thread < kGemvSums) {
            for (int w = 0; w < kGemvWarps; ++w) sum[0] = plus(sum[0], parts[w * kGemvSums + thread]);
        }
        if (p.splits > 1 && !combine_splits<kGemvThreads>(p, static_cast<int>(blockIdx.x), kGemvSums, sum)) return;
    }
    if (thread >= kSums || row >= p.rows || output >= p.outputs) return;
    const float bias = p.bias ? p.bias[output] : 0.0f;
    if constexpr (!Operand::kInt8) {
        write(p, row, output, p.bias ? sum[0] + bias : sum[0]);
    } else {
        if constexpr (!kOrdered) {
            const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * 8 + low;
            const int zero = p.zeros ? zero_of(p.zeros[pair], high) : p.zero;
            chain = fused(scale_of(p.scales[pair], high), from_int(sum[0] - zero * p.row_sums[row]), 0.0f);
        }
        write(p, row, output, fused(chain, p.row_scales[row], bias));
    }
}

}  // namespace tqs::cuda
