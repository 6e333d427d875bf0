// Whether operands of 16 bits are read as vectors of eight: at multiples of 16 bytes in all lanes and samples.
#pragma once

#include <cstdint>

#include "backend/program_kernels.h"
#include "cuda/device/tensor_tile.cuh"

namespace tqs::cuda {

inline bool is_aligned(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % sizeof(Vector) == 0;
}

template <class Address>
bool are_aligned(Address const* addresses, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
        if (!is_aligned(addresses[i])) return false;
    }
    return true;
}

// Its lanes and samples; its axes are the caller's.
inline bool is_aligned(const Operand& operand, std::int64_t lanes) {
    if (operand.sample_stride % kTensorVector != 0) return false;
    if (operand.lanes) return are_aligned(operand.lanes, lanes);
    return is_aligned(operand.data) && operand.lane_stride % kTensorVector == 0;
}

}  // namespace tqs::cuda
