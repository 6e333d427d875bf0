// Which tiles a product is cut into. No bit depends on it (device/accumulate.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device/accumulate.cuh"

namespace tqs::cuda {

// A multiple of 128.
template <class Tile>
constexpr std::size_t shared_bytes() {
    return (Tile::kSharedBytes + 127) / 128 * 128;
}

// Calls run(tile) with the largest tiles that are more than half full and of which there are at least two per
// multiprocessor; `count` products of [rows, columns]. Larger tiles read their operands less often, smaller ones keep
// more of the device at work.
template <class T, class Run>
void with_tiling(int multiprocessors, std::int64_t rows, std::int64_t columns, std::int64_t count, const Run& run) {
    const auto enough = [&](int edge) {
        if (2 * rows <= edge || 2 * columns <= edge) return false;
        const std::int64_t tiles = ((rows + edge - 1) / edge) * ((columns + edge - 1) / edge) * count;
        return tiles >= 2 * std::int64_t{multiprocessors};
    };
    using Large = Tiling<T, 8>;
    using Middle = Tiling<T, 4>;
    using Small = Tiling<T, 1>;
    if (sizeof(T) == 4 && enough(Large::kEdge)) {
        if constexpr (sizeof(T) == 4) run(Large{});
    } else if (enough(Middle::kEdge)) {
        run(Middle{});
    } else {
        run(Small{});
    }
}

}  // namespace tqs::cuda
