// quantize for a vector ISA: scales for kLanes groups at a time, then the codes of each group.
#pragma once

#include <cstring>

#include "core/half.h"
#include "cpu/panel/scale_search.h"

namespace tqs::panel {

// Eight codes, one a byte, as the 8 * bits bits of the bitstream: neighbours are joined, then pairs, then fours.
template <int bits>
static inline std::uint64_t pack_eight(std::uint64_t codes) {
    if constexpr (bits < 8) {
        constexpr int gap = 8 - bits;
        codes = (codes | codes >> gap) & (0x0001000100010001u * ((1u << 2 * bits) - 1u));
        codes = (codes | codes >> 2 * gap) & (0x0000000100000001u * ((std::uint64_t{1} << 4 * bits) - 1u));
        codes |= codes >> 4 * gap;
    }
    return codes;
}

// Codes of weights[count] to `out`, (count * bits + 7) / 8 bytes. `zero` less the lowest code is q's.
template <class W, int bits>
static void encode(const float* weights, std::int64_t count, double scale, double zero, std::uint8_t* out) {
    using Vector = typename W::Vector;
    using Integers = typename W::Integers;
    using Bytes = typename W::Bytes;
    const Vector inverse = 1.0 / W::broadcast(scale), low = W::broadcast(-zero);
    const Vector high = W::broadcast((1 << bits) - 1 - zero);
    for (std::int64_t k = 0; k < count; k += 8) {
        const std::int64_t some = std::min<std::int64_t>(8, count - k);
        float values[8] = {};
        std::memcpy(values, weights + k, sizeof(float) * static_cast<std::size_t>(some));
        std::uint8_t bytes[8];
        for (int i = 0; i < 8; i += W::kLanes) {
            typename W::Singles part;
            std::memcpy(&part, values + i, sizeof part);
            const Vector weight = __builtin_convertvector(part, Vector);
            const Vector code = W::round(clamp<W>(weight * inverse, low, high)) - low;
            const Bytes narrow = __builtin_convertvector(__builtin_convertvector(code, Integers), Bytes);
            std::memcpy(bytes + i, &narrow, sizeof narrow);
        }
        std::uint64_t word;
        std::memcpy(&word, bytes, sizeof word);
        if (some < 8) word &= (std::uint64_t{1} << 8 * some) - 1u;
        word = pack_eight<bits>(word);
        std::memcpy(out + k * bits / 8, &word, static_cast<std::size_t>((some * bits + 7) / 8));
    }
}

template <class W, int bits>
static void quantize(const QuantizeTask& task, std::int64_t begin, std::int64_t end) {
    const std::int64_t width = task.group_size == 0 ? task.columns : task.group_size;
    const std::int64_t groups = packed_groups(task.columns, task.group_size);
    const std::int64_t bytes = packed_row_bytes(task.columns, bits);
    for (std::int64_t first = begin * groups; first < end * groups; first += W::kLanes) {
        const std::int64_t some = std::min<std::int64_t>(W::kLanes, end * groups - first);
        const float* weights[W::kLanes];
        std::int64_t counts[W::kLanes];
        for (std::int64_t lane = 0; lane < some; ++lane) {
            const std::int64_t row = (first + lane) / groups, column = (first + lane) % groups * width;
            weights[lane] = task.weights + row * task.stride + column;
            counts[lane] = std::min(width, task.columns - column);
        }
        Tile<W> tile(weights, counts, some);
        const Candidate<W> chosen = search_scales<W>(tile, task, bits);
        for (std::int64_t lane = 0; lane < some; ++lane) {
            const std::int64_t group = first + lane, row = group / groups;
            const double zero = -chosen.low[lane];
            task.scales[group] = float_to_bfloat16(static_cast<float>(chosen.scale[lane]));
            if (task.zeros) task.zeros[group] = static_cast<std::uint8_t>(zero);
            encode<W, bits>(weights[lane], counts[lane], chosen.scale[lane], zero,
                            task.codes + row * bytes + group % groups * width * bits / 8);
        }
    }
}

}  // namespace tqs::panel
