// The lanes of an operand, and its elements, which may be of another precision than the kernel's.
#pragma once

#include <cstdint>
#include <type_traits>

#include "backend/program_kernels.h"
#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"
#include "cuda/grid.h"

namespace tqs::cuda {

// An operand without its axes.
struct Lanes {
    char* data;          // of lane 0
    char* const* table;  // null, or where each lane's data are
    std::int64_t step;   // bytes between lanes
    Precision precision;
    bool shared;  // as is_shared: in a tangent rollout, without tangents

    // Null: a tangent that is zero.
    __device__ char* lane(std::int64_t number, bool tangent) const {
        return in_global(table ? table[number] : tangent && number > 0 && shared ? nullptr : data + number * step);
    }
};

// `operand` as `on_device` returns it.
static inline Lanes lanes_of(const Operand& operand) {
    return {static_cast<char*>(operand.data), reinterpret_cast<char* const*>(operand.lanes),
            operand.lane_stride * precision_bytes(operand.precision), operand.precision, is_shared(operand)};
}

// T: float, double, or what is stored in 16 bits and computed in float.
template <class T>
static constexpr bool kIsHalf = std::is_same_v<T, Bfloat16> || std::is_same_v<T, Float16>;
template <class T>
using Computed = std::conditional_t<kIsHalf<T>, float, T>;

template <class T>
static constexpr Precision kPrecisionOf = std::is_same_v<T, Bfloat16>  ? Precision::bfloat16
                                          : std::is_same_v<T, Float16> ? Precision::float16
                                          : sizeof(T) == 4             ? Precision::float32
                                                                       : Precision::float64;

// A stored element as a number, and a number as it is stored: rounded to nearest, ties to even.
template <class T>
__device__ inline Computed<T> number(T stored) {
    if constexpr (kIsHalf<T>) {
        return to_float(stored);
    } else {
        return stored;
    }
}
template <class T, class X>
__device__ inline T rounded(X value) {
    if constexpr (kIsHalf<T>) {
        T result;
        store(&result, static_cast<float>(value));
        return result;
    } else {
        return static_cast<T>(value);
    }
}

// Element `offset` as T; as it lies there, where that is its type.
template <class T>
__device__ inline T load(const char* data, Precision precision, std::int64_t offset) {
    if (precision == kPrecisionOf<T>) return reinterpret_cast<const T*>(data)[offset];
    switch (precision) {
        case Precision::float32:
            return rounded<T>(reinterpret_cast<const float*>(data)[offset]);
        case Precision::float64:
            return rounded<T>(reinterpret_cast<const double*>(data)[offset]);
        case Precision::bfloat16:
            return rounded<T>(to_float(reinterpret_cast<const Bfloat16*>(data)[offset]));
        default:
            return rounded<T>(to_float(reinterpret_cast<const Float16*>(data)[offset]));
    }
}
template <class T>
__device__ inline void store(char* data, Precision precision, std::int64_t offset, T value) {
    switch (precision) {
        case Precision::float32:
            reinterpret_cast<float*>(data)[offset] = static_cast<float>(value);
            return;
        case Precision::float64:
            reinterpret_cast<double*>(data)[offset] = static_cast<double>(value);
            return;
        case Precision::bfloat16:
            return store(reinterpret_cast<Bfloat16*>(data) + offset, static_cast<float>(value));
        default:
            return store(reinterpret_cast<Float16*>(data) + offset, static_cast<float>(value));
    }
}

// As many elements as are loaded and stored at once.
template <class T>
struct alignas(16) Pack {
    static constexpr int kEach = static_cast<int>(16 / sizeof(T));
    T values[kEach];
};

// Lanes in the y direction of a grid: block y takes lanes y, y + gridDim.y, ...
static inline unsigned grid_lanes(std::int64_t lanes) {
    return static_cast<unsigned>(lanes < kMostGridLanes ? lanes : kMostGridLanes);
}

// Where each of so many has a block of its own, number blockIdx.z * gridDim.y + blockIdx.y: how many there are along z.
static inline unsigned grid_rests(std::int64_t lanes) {
    return static_cast<unsigned>((lanes + kMostGridLanes - 1) / kMostGridLanes);
}

// How a nonlinear kernel shares out the tangents: a block computes the primal of its elements and then the tangents of
// `each` lanes, blocks in the y direction the following ones. As few as fill the device (2048 blocks: eight on each of
// a large GPU's multiprocessors, twice), since every one computes the primal again; no bit depends on it.
struct TangentShare {
    std::int64_t each;
    unsigned blocks;

    static TangentShare of(std::int64_t lanes, std::int64_t blocks) {
        constexpr std::int64_t kFilled = 2048, kFewest = 4;
        const std::int64_t tangents = lanes > 1 ? lanes - 1 : 1;
        const std::int64_t wanted = blocks >= kFilled ? 1 : (kFilled + blocks - 1) / blocks;
        std::int64_t each = (tangents + wanted - 1) / wanted;
        if (each < kFewest) each = kFewest;
        return {each, static_cast<unsigned>((tangents + each - 1) / each)};
    }
};

}  // namespace tqs::cuda
