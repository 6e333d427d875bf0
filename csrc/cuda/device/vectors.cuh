// Adjacent elements of 16-byte aligned memory, loaded and stored in vectors of 16 bytes; and which operands have them.
#pragma once

#include <cstring>

#include "cuda/device/lanes.cuh"

namespace tqs::cuda {

// `count` elements from or to memory that is aligned to as many of them, or to 16 bytes.
template <class Stored, class T, int count>
__device__ inline void load_vectors(const Stored* from, T (&to)[count]) {
    constexpr int kEach = count < Pack<Stored>::kEach ? count : Pack<Stored>::kEach;
    struct alignas(kEach * sizeof(Stored)) Vectors {
        Stored values[kEach];
    };
#pragma unroll
    for (int i = 0; i < count; i += kEach) {
        const Vectors stored = *reinterpret_cast<const Vectors*>(from + i);
#pragma unroll
        for (int j = 0; j < kEach; ++j) to[i + j] = number(stored.values[j]);
    }
}
template <class Stored, class T, int count>
__device__ inline void store_vectors(Stored* to, const T (&from)[count]) {
    constexpr int kEach = count < Pack<Stored>::kEach ? count : Pack<Stored>::kEach;
    struct alignas(kEach * sizeof(Stored)) Vectors {
        Stored values[kEach];
    };
#pragma unroll
    for (int i = 0; i < count; i += kEach) {
        Vectors stored;
        if constexpr (kIsHalf<Stored>) {  // two by one instruction
#pragma unroll
            for (int j = 0; j < kEach; j += 2) {
                const std::uint32_t pair = pair_of(Stored{}, from[i + j], from[i + j + 1]);
                std::memcpy(&stored.values[j], &pair, sizeof pair);
            }
        } else {
#pragma unroll
            for (int j = 0; j < kEach; ++j) stored.values[j] = static_cast<Stored>(from[i + j]);
        }
        *reinterpret_cast<Vectors*>(to + i) = stored;
    }
}

// Calls f with a pointer of the type that `precision` names, one of those that has_vectors<T> knows.
template <class T, class F>
__device__ inline void as_stored(char* data, Precision precision, const F& f) {
    if (precision == kPrecisionOf<T>) return f(reinterpret_cast<T*>(data));
    if constexpr (sizeof(T) == 4) {
        if (precision == Precision::bfloat16) return f(reinterpret_cast<Bfloat16*>(data));
        f(reinterpret_cast<Float16*>(data));
    }
}

// Whether a kernel that computes in T loads and stores the precision of this operand in vectors.
template <class T>
static inline bool has_vectors(const Operand& operand) {
    return operand.precision == kPrecisionOf<T> || (sizeof(T) == 4 && precision_bytes(operand.precision) == 2);
}

// Whether all lanes begin at multiples of 16 bytes, and of `each` elements from lane 0.
static inline bool starts_vectors(const Operand& operand, std::int64_t lanes, int each) {
    const auto whole = [](const void* data) {
        return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
    };
    if (!operand.lanes) return whole(operand.data) && operand.lane_stride % each == 0;
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
        if (!whole(operand.lanes[lane])) return false;
    }
    return true;
}

}  // namespace tqs::cuda
