// Which tiles a product is cut into. No bit depends on it (device/accumulate.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device/accumulate.cuh"
#include "cuda/device/tensor_tile.cuh"
#include "cuda/plan.h"

namespace tqs::cuda {

constexpr std::size_t shared_bytes(int bytes) {
    return static_cast<std::size_t>(bytes + 127) / 128 * 128;
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

// The same for the tensor cores. 256 x 128 outputs read 12 KB per megaflop (128 x 128: 16, 64 x 64: 31), which L2 has
// to deliver: 7 TB/s of it at 600 TFLOP/s. One block of those fills a multiprocessor, two of 128 x 128 do. A few
// rows are limited by reading weights, and take 16 x 64.
template <class Run>
void with_tensor_shape(const Device& device, std::int64_t rows, std::int64_t columns, std::int64_t count,
                       const Run& run) {
    constexpr int kBesideTheRing = 16 << 10;
    const auto enough = [&](auto shape, int blocks) {
        using Shape = decltype(shape);
        if (Shape::kRingBytes + kBesideTheRing > device.shared_per_block) return false;
        if (2 * rows <= Shape::kRows || 2 * columns <= Shape::kColumns) return false;
        const std::int64_t tiles =
            ((rows + Shape::kRows - 1) / Shape::kRows) * ((columns + Shape::kColumns - 1) / Shape::kColumns) * count;
        return tiles >= std::int64_t{blocks} * device.multiprocessors;
    };
    using Large = TensorShape<256, 128, 4, 2, 3>;
    using Middle = TensorShape<128, 128, 2, 2, 3>;
    using Small = TensorShape<64, 64, 2, 2, 4>;
    using Few = TensorShape<16, 64, 1, 4, 4>;
    if (enough(Large{}, 2)) {
        run(Large{});
    } else if (enough(Middle{}, 2)) {
        run(Middle{});
    } else if (enough(Small{}, 1)) {
        run(Small{});
    } else {
        run(Few{});
    }
}

}  // namespace tqs::cuda
