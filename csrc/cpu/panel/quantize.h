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

// The codes of eight weights.
template <class W, int bits>
static inline std::uint64_t encode_eight(const float* weights, const Candidate<W>& chosen) {
    std::uint8_t bytes[8];
    for (int i = 0; i < 8; i += W::kLanes) {
        const typename W::Vector quotient = W::widen(weights + i) * chosen.inverse;
        const typename W::Vector code = W::round(clamp<W>(quotient, chosen.low, chosen.high)) - chosen.low;
        W::store_bytes(bytes + i, code);
    }
    std::uint64_t word;
    std::memcpy(&word, bytes, sizeof word);
    return pack_eight<bits>(word);
}

// Codes of weights[count] to `out`, (count * bits + 7) / 8 bytes.
template <class W, int bits>
static void encode(const float* weights, std::int64_t count, const Candidate<W>& chosen, std::uint8_t* out) {
    const std::int64_t whole = count / 8 * 8;
    for (std::int64_t k = 0; k < whole; k += 8, out += bits) {
        const std::uint64_t word = encode_eight<W, bits>(weights + k, chosen);
        std::memcpy(out, &word, bits);
    }
    if (whole == count) return;
    const std::int64_t rest = count - whole;
    float last[8] = {};
    std::copy(weights + whole, weights + count, last);
    const std::uint64_t word = encode_eight<W, bits>(last, chosen) & ((std::uint64_t{1} << rest * bits) - 1u);
    std::memcpy(out, &word, static_cast<std::size_t>((rest * bits + 7) / 8));
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
            const Candidate<W> own{W::broadcast(chosen.scale[lane]), W::broadcast(chosen.inverse[lane]),
                                   W::broadcast(chosen.low[lane]), W::broadcast(chosen.high[lane])};
            task.scales[group] = float_to_bfloat16(static_cast<float>(chosen.scale[lane]));
            if (task.zeros) task.zeros[group] = static_cast<std::uint8_t>(-chosen.low[lane]);
            encode<W, bits>(weights[lane], counts[lane], own,
                            task.codes + row * bytes + group % groups * width * bits / 8);
        }
    }
}

}  // namespace tqs::panel
