// Whether operands are read as vectors of 16 bytes: at multiples of them in all lanes and samples.
#pragma once

#include <cstdint>

#include "backend/program_kernels.h"

namespace tqs::cuda {

inline constexpr std::int64_t kVectorBytes = 16;

inline std::int64_t vector_of(Precision precision) {
    return kVectorBytes / precision_bytes(precision);
}

inline bool is_aligned(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % kVectorBytes == 0;
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
    const std::int64_t vector = vector_of(operand.precision);
    if (operand.sample_stride % vector != 0) return false;
    if (operand.lanes) return are_aligned(operand.lanes, lanes);
    return is_aligned(operand.data) && operand.lane_stride % vector == 0;
}

}  // namespace tqs::cuda
