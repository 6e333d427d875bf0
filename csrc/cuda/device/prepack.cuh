// From the portable form of a weight (quant/format.h) to the one of this folder (cuda/layout.h).
#pragma once

#include <cstdint>

#include "cuda/device/codes.cuh"
#include "cuda/device/instructions.cuh"
#include "cuda/layout.h"

namespace tqs::cuda {

constexpr int kPrepackThreads = 256;

// The weight and where it goes; sizes that device code cannot compute for itself (constexpr host functions).
struct PrepackTask {
    PackedView weight;
    WeightLayout layout;
    std::int64_t row_bytes, group_count;  // of the portable form
    unsigned char* out;                   // [layout.bytes]
};

// One thread per word of codes and per pair of scales: grid.x * kPrepackThreads >= both.
template <int bits>
__global__ void __launch_bounds__(kPrepackThreads) prepack(const PrepackTask task) {
    constexpr int stored = bits <= 4 ? 4 : 8, kWords = stored;  // words of a lane and block
    const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kPrepackThreads + threadIdx.x;
    const PackedView& weight = task.weight;
    const WeightLayout& layout = task.layout;

    if (index < layout.tiles * layout.units * 2 * 32 * kWords) {
        const int word = static_cast<int>(index % 4), lane = static_cast<int>(index / 4 % 32);
        const int vector = static_cast<int>(index / 128 % (stored / 4));
        const std::int64_t block = index / (32 * kWords), tile = block / (layout.units * 2);
        const std::int64_t first = block % (layout.units * 2) * kBlockInputs + 8 * (lane % 4);
        const std::int64_t row = tile * kTileRows + lane / 4;
        std::uint32_t value = 0;
        for (int i = 0; i < 32 / stored; ++i) {
            // 4 bits: (h, s) from the word, the row from the nibble; 8 bits: h from the vector, (s, row) from the word.
            const int part = stored == 4 ? i / 2 : i, j = part / 2 + 2 * (part % 2);
            const int half = stored == 4 ? word / 2 : vector, step = stored == 4 ? word % 2 : word / 2;
            const std::int64_t k = first + 32 * half + 4 * step + j;
            const std::int64_t n = row + 8 * (stored == 4 ? i % 2 : word % 2);
            if (n < weight.rows && k < weight.columns) {
                const auto code = static_cast<std::uint32_t>(read_code<bits>(weight.codes + n * task.row_bytes, k));
                value |= code << (i * stored);
            }
        }
        reinterpret_cast<std::uint32_t*>(task.out)[index] = value;
    }

    if (index < layout.tiles * layout.groups * 8) {
        const std::int64_t group = index / 8 % layout.groups;
        const std::int64_t row = index / 8 / layout.groups * kTileRows + index % 8;
        std::uint32_t scales = 0, zeros = 0;
        for (int i = 0; i < 2; ++i) {
            const std::int64_t n = row + 8 * i, source = n * task.group_count + group;
            if (n >= weight.rows || group >= task.group_count) continue;
            scales |= static_cast<std::uint32_t>(weight.scales[source]) << (16 * i);
            if (weight.zeros) zeros |= static_cast<std::uint32_t>(weight.zeros[source]) << (8 * i);
        }
        reinterpret_cast<std::uint32_t*>(task.out + layout.scales)[index] = scales;
        if (weight.zeros) {
            reinterpret_cast<std::uint16_t*>(task.out + layout.zeros)[index] = static_cast<std::uint16_t>(zeros);
        }
    }
}

}  // namespace tqs::cuda
