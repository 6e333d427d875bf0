// Products of many rows on sm_90a: 128 outputs and `columns` rows of x per block, K streamed through shared memory.
//
//   grid x: blocks of 8 tiles of 16 outputs     grid y: blocks of `columns` rows of x     grid z: splits of K
//   block:  two warpgroups that multiply, a warp having one tile and all rows, and a third of which one warp fills
//           stages, and whose registers the others take
//   cluster: kClusterBlocks blocks along x, which read the same rows of x: each brings its share of them to all.
//           Alone a block of 128 rows would read 40 bytes per cycle, more than L2 gives all multiprocessors at once.
//
// A stage is one unit of 128 inputs: x as it was arranged (cuda/layout.h), then codes, scales, zeros and sums as they
// lie in memory, all brought by bulk copies of one contiguous piece each. `full` of a stage says that they have come,
// `empty` that all warps of the cluster have read them; a stage is used again and again, so that their phases have the
// parity of the round.
//
// A warpgroup decodes its left operands in *batches* of 32 inputs into one of two sets of registers, and while
// the tensor cores multiply by one set, decodes the other. A group's sums are taken when all its products are done and
// scaled into the totals; meanwhile the other warpgroup has the tensor cores for itself. Per thread: totals and sums of
// columns / 2 each, 32 operands and 8 or 16 words of codes; 232 registers are there.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/operand.cuh"
#include "cuda/device/results.cuh"
#include "cuda/device/split.cuh"
#include "cuda/device/warpgroup_instructions.cuh"
#include "cuda/geometry.h"

namespace tqs::cuda {

// c = a b, or c += a b where `add`, b the atoms described.
template <int bits, int fragments>
__device__ inline void multiply_atoms(Exact<Bfloat16, bits>, float (&c)[fragments][4], const std::uint32_t (&a)[4],
                                      std::uint64_t b, bool add) {
    products_bfloat16(c, a, b, add);
}
template <int bits, int fragments>
__device__ inline void multiply_atoms(Exact<Float16, bits>, float (&c)[fragments][4], const std::uint32_t (&a)[4],
                                      std::uint64_t b, bool add) {
    products_float16(c, a, b, add);
}
template <int bits, int fragments>
__device__ inline void multiply_atoms(Int8<bits>, int (&c)[fragments][4], const std::uint32_t (&a)[4], std::uint64_t b,
                                      bool add) {
    products_int8(c, a, b, add);
}

template <class Operand, int group, int columns>
struct Warpgroups {
    static constexpr Stage kStage = warpgroups_stage(Operand::kInt8, Operand::bits, group, columns);
    static constexpr int kStages = warpgroups_stages(Operand::kInt8, Operand::bits, group, columns);
    static constexpr int kGroups = group == 0 ? 1 : kUnitInputs / group;
    static constexpr int kSlabs = Operand::kInputBytes;  // per unit
    static constexpr int kBatches = 4;
    static constexpr int kPerGroup = kBatches / kGroups;
    static constexpr int kOperands = Operand::kOperands / kBatches;  // per batch
    static constexpr bool kWhole = Operand::kInt8 && group == 0;     // totals are integers
    static constexpr int kOutputs = kTileRows * kWarpgroupsTiles;
    static_assert(kStages * kStage.bytes >= columns * (4 * kOutputs + 16), "results pass through the stages");
    using Total = std::conditional_t<kWhole, int, float>;
    using Totals = Total[columns / 8][4];

    unsigned char* stages;
    Barrier* full;
    Barrier* empty;

    __device__ explicit Warpgroups(unsigned char* shared) {
        stages = shared + (kAtomBytes - shared_address(shared) % kAtomBytes) % kAtomBytes;
        full = reinterpret_cast<Barrier*>(stages + kStages * kStage.bytes);
        empty = full + kStages;
    }

    // By the warp that fills: lane i copies what belongs to tile i, lane 8 + i this block's share of slab i of x, lane
    // 16 + i the sums of group i. Tiles beyond the last one are left as they are: their outputs go nowhere.
    __device__ void fill(const Product& p, int unit, int stage) const {
        const int lane = static_cast<int>(threadIdx.x) % 32,
                  first_tile = static_cast<int>(blockIdx.x) * kWarpgroupsTiles;
        const int first_row = static_cast<int>(blockIdx.y) * columns;
        const int first_group = p.groups == 1 ? 0 : unit * kGroups;
        constexpr int kCodes = kTileRows * kUnitInputs * Operand::bits / 8;
        constexpr int kScales = group == 0 ? 0 : kGroups * 8 * 4, kZeros = group == 0 ? 0 : kGroups * 8 * 2;
        constexpr int kSums = Operand::kInt8 && group != 0 ? columns * 4 : 0;
        unsigned char* to = stages + stage * kStage.bytes;
        Barrier* barrier = full + stage;
        if (lane == 0) {
            const int left = p.tiles > first_tile ? p.tiles - first_tile : 0;
            const int tiles = left < kWarpgroupsTiles ? left : kWarpgroupsTiles;
            arrive_expecting(barrier, tiles * (kCodes + kScales + (p.zeros ? kZeros : 0)) +
                                          kSlabs * columns * kSlabBytes + kGroups * kSums);
        }
        warp_barrier();
        if (lane < kWarpgroupsTiles) {
            const std::int64_t tile = first_tile + lane;
            if (tile >= p.tiles) return;
            copy_bulk(to + kStage.codes + lane * kCodes, p.codes + (tile * p.units + unit) * kCodes, kCodes, barrier);
            if constexpr (group != 0) {
                const std::int64_t pairs = (tile * p.groups + first_group) * 8;
                copy_bulk(to + kStage.scales + lane * kScales, p.scales + pairs, kScales, barrier);
                if (p.zeros) copy_bulk(to + kStage.zeros + lane * kZeros, p.zeros + pairs, kZeros, barrier);
            }
        } else if (lane < 8 + kSlabs) {
            constexpr int kShare = columns / kClusterBlocks;
            const int slab = lane - 8, first = cluster_rank() * kShare;
            const std::int64_t row = (static_cast<std::int64_t>(unit) * kSlabs + slab) * p.padded_rows + first_row;
            copy_bulk_to(to + (slab * columns + first) * kSlabBytes, p.x + (row + first) * kSlabBytes,
                         kShare * kSlabBytes, barrier, (1u << kClusterBlocks) - 1);
        } else if (kSums != 0 && lane >= 16 && lane < 16 + kGroups) {
            const std::int64_t from = (first_group + lane - 16) * p.padded_rows + first_row;
            copy_bulk(to + kStage.sums + (lane - 16) * kSums, p.row_sums + from, kSums, barrier);
        }
    }

    // By a warpgroup: adds the unit in the stage at `from` to the totals.
    __device__ static void multiply(const Product& p, const unsigned char* from, Totals& totals) {
        const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
        const int r = lane / 4, t = lane % 4;
        const std::uint64_t atoms = describe_atoms(from);

        const unsigned char* tile = from + kStage.codes + warp * (kTileRows * Operand::bits * 16);
        std::uint32_t codes[Operand::bits], a[2][kOperands][4], zeros = 0;  // codes of one block
        typename Operand::Sum part[columns / 8][4];
#pragma unroll
        for (int batch = 0; batch < kBatches; ++batch) {
            const int g = batch / kPerGroup;
            const bool first = batch % kPerGroup == 0, last = batch % kPerGroup == kPerGroup - 1;
            if constexpr (group != 0) {
                if (first) {
                    zeros =
                        p.zeros
                            ? reinterpret_cast<const std::uint16_t*>(from + kStage.zeros)[(warp * kGroups + g) * 8 + r]
                            : static_cast<std::uint32_t>(p.zero) * 0x101u;
                    if constexpr (Operand::kInt8) start(from, g, t, zeros, part);
                }
            }
            constexpr int kBlocks = kBatches / kUnitBlocks;  // batches per block
            if (batch % kBlocks == 0) {
#pragma unroll
                for (int v = 0; v < Operand::bits / 4; ++v) {
                    const int place = batch / kBlocks * (Operand::bits / 4) + v;
                    const Vector vector = load_from_shared(tile + place * 512 + lane * 16);
#pragma unroll
                    for (int i = 0; i < 4; ++i) codes[4 * v + i] = vector.words[i];
                }
            }
#pragma unroll
            for (int q = 0; q < kOperands; ++q) {
                Operand::decode_operand(codes, batch % kBlocks * kOperands + q, zeros, a[batch % 2][q]);
            }
            fence_products(a[batch % 2]);
#pragma unroll
            for (int q = 0; q < kOperands; ++q) {
                const int operand = batch * kOperands + q;
                // 32 bytes of x per operand; addresses stay below 2^18, so that nothing is carried out of their field
                const std::uint64_t b =
                    atoms + static_cast<std::uint64_t>((operand / 4 * columns * kSlabBytes + operand % 4 * 32) / 16);
                if constexpr (kWhole) {
                    multiply_atoms(Operand{}, totals, a[batch % 2][q], b, true);
                } else {
                    multiply_atoms(Operand{}, part, a[batch % 2][q], b, Operand::kInt8 || !first || q > 0);
                }
            }
            commit_products();
            if (!last) {
                wait_products<1>();  // for the batch before, whose registers are next
                continue;
            }
            wait_products<0>();
            if constexpr (kWhole) {
                settle(totals);
            } else {
                settle(part);
                add_group(from, (warp * kGroups + g) * 8 + r, part, totals);
            }
        }
    }

    // The sums of a group start at -z times the sums of the rows' codes.
    template <class Sum>
    __device__ static void start(const unsigned char* from, int g, int t, std::uint32_t zeros,
                                 Sum (&part)[columns / 8][4]) {
#pragma unroll
        for (int m = 0; m < columns / 8; ++m) {
            const int* sums = reinterpret_cast<const int*>(from + kStage.sums) + g * columns + 8 * m + 2 * t;
            const int own[2] = {sums[0], sums[1]};
            Operand::start(part[m], zeros, own);
        }
        settle(part);
    }

    template <class Sum>
    __device__ static void add_group(const unsigned char* from, int pair, const Sum (&part)[columns / 8][4],
                                     Totals& totals) {
        const std::uint32_t both = reinterpret_cast<const std::uint32_t*>(from + kStage.scales)[pair];
        const float scales[2] = {scale_of(both, 0), scale_of(both, 1)};
#pragma unroll
        for (int m = 0; m < columns / 8; ++m) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                totals[m][c] = fused(scales[c / 2], static_cast<float>(part[m][c]), totals[m][c]);
            }
        }
    }
};

// group as in gemv.cuh. columns: 64 or 128.
template <class Operand, int group, int columns>
__global__ void __launch_bounds__(kWarpgroupsThreads, 1) warpgroups(const Product p) {
    using Kernel = Warpgroups<Operand, group, columns>;
    constexpr int kCount = columns / 2;
    const Kernel kernel(shared_memory());
    const Range range = split_range(p);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Kernel::kStages; ++stage) {
            make_barrier(kernel.full + stage, 1);
            make_barrier(kernel.empty + stage, kClusterBlocks * kMultiplyingWarps);
        }
        publish_barriers();
    }
    cluster_barrier();

    int stage = 0, parity = 0;
    const auto next_stage = [&] {
        stage = stage + 1 == Kernel::kStages ? 0 : stage + 1;
        if (stage == 0) parity = 1 - parity;
    };
    if (warp >= kMultiplyingWarps) {
        release_registers<kFillingRegisters>();
        if (warp == kMultiplyingWarps) {
            for (int unit = range.begin; unit < range.end; ++unit, next_stage()) {
                wait_phase(kernel.empty + stage, 1 - parity);
                kernel.fill(p, unit, stage);
            }
        }
        cluster_barrier();
        return;
    }
    claim_registers<kMultiplyingRegisters>();
    typename Kernel::Totals totals = {};
    for (int unit = range.begin; unit < range.end; ++unit, next_stage()) {
        wait_phase(kernel.full + stage, parity);
        Kernel::multiply(p, kernel.stages + stage * Kernel::kStage.bytes, totals);
        warp_barrier();
        const int lane = static_cast<int>(threadIdx.x) % 32;
        if (lane < kClusterBlocks) arrive(kernel.empty + stage, lane);
    }
    cluster_barrier();  // a block stays until the others have arrived at its barriers

    if (p.splits > 1) {
        typename Kernel::Total flat[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) flat[i] = totals[i / 4][i % 4];
        const int block = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
        constexpr int kThreads = 32 * kMultiplyingWarps;
        if (!combine_splits<kThreads>(p, block, kThreads, flat)) return;
#pragma unroll
        for (int i = 0; i < kCount; ++i) totals[i / 4][i % 4] = flat[i];
    }
    const int first_tile = static_cast<int>(blockIdx.x) * kWarpgroupsTiles;
    write_results_by_rows<Operand, Kernel::kWhole, Kernel::kOutputs, 32 * kMultiplyingWarps>(
        p, first_tile + warp, first_tile * kTileRows, static_cast<int>(blockIdx.y) * columns, totals, kernel.stages);
}

}  // namespace tqs::cuda
