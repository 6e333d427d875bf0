// Reading the packed bitstream (quant/format.h) on the device.
#pragma once

#include <cstdint>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

// Code k of a row; touches only the bytes that hold it.
template <int bits>
__device__ inline int read_code(const std::uint8_t* row, std::int64_t k) {
    const std::int64_t bit = k * bits;
    const int shift = static_cast<int>(bit % 8);
    unsigned window = row[bit / 8];
    if constexpr (8 % bits != 0) {  // only 3 bits can straddle two bytes
        if (shift + bits > 8) window |= static_cast<unsigned>(row[bit / 8 + 1]) << 8;
    }
    return static_cast<int>((window >> shift) & ((1u << bits) - 1u));
}

}  // namespace tqs::cuda
