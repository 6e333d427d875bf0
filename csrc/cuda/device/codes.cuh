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

// Codes k ... k + 3 of a row from the lowest bits on, k a multiple of 4; where only `left` of them are left, only their
// bytes are read.
template <int bits>
__device__ inline int four_codes(const std::uint8_t* row, int k, int left) {
    const int bit = k * bits, shift = bit % 8, end = shift + (left < 4 ? left : 4) * bits;
    unsigned window = 0;
#pragma unroll
    for (int byte = 0; byte < (4 * bits + 7) / 8; ++byte) {
        if (8 * byte < end) window |= static_cast<unsigned>(row[bit / 8 + byte]) << 8 * byte;
    }
    return static_cast<int>(window >> shift);
}

}  // namespace tqs::cuda
