// The inner loop of products in float32 and float64: a block of threads sums a tile of outputs over k. Operands go
// through shared memory, kDepth positions of k at a time, the next ones already on their way in registers; each thread
// sums a square of outputs.
//
// An output is one chain of fused multiply-adds in order of k, padded with zeros to a multiple of kDepth: the same bits
// in every shape of tile and wherever it lies in one.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

inline constexpr int kDepth = 16;
inline constexpr int kProductThreads = 256;
inline constexpr int kProductSide = 16;  // threads along either side of a tile

// Tiles of kEdge x kEdge outputs, kEach x kEach of them a thread's.
template <class T, int kEach_>
struct Tiling {
    static constexpr int kEach = kEach_, kEdge = kProductSide * kEach;
    static constexpr int kPitch = kEdge + static_cast<int>(16 / sizeof(T));  // of a position of k in shared memory
    static constexpr int kLoads = kEdge * kDepth / kProductThreads;          // of a thread, per operand and kDepth
    static constexpr int kSharedBytes = 2 * kDepth * kPitch * static_cast<int>(sizeof(T));
    // A thread's outputs lie in runs of so many adjacent ones, which are loaded from shared memory at once.
    static constexpr int kRun = kEach < static_cast<int>(16 / sizeof(T)) ? kEach : static_cast<int>(16 / sizeof(T));

    // Where the i-th row (or column) of thread `side` lies in the tile.
    __device__ static int place(int side, int i) { return (i / kRun * kProductSide + side) * kRun + i % kRun; }
};

// Where the i-th element that a thread loads lies in its tile, for operands whose k or whose row is adjacent in memory;
// or the first of the i-th `vector` elements of adjacent k.
struct Loaded {
    int row, k;
};
template <class Tile, int vector = 1>
__device__ inline Loaded loaded(int i, bool by_rows) {
    const int element = (static_cast<int>(threadIdx.x) + i * kProductThreads) * vector;
    if (by_rows) return {element % Tile::kEdge, element / Tile::kEdge};
    return {element / kDepth, element % kDepth};
}

template <class T, class Tile>
__device__ inline void load_side(const T* position, int side, T (&values)[Tile::kEach]) {
#pragma unroll
    for (int run = 0; run < Tile::kEach / Tile::kRun; ++run) {
        const T* from = position + (run * kProductSide + side) * Tile::kRun;
        if constexpr (Tile::kRun * sizeof(T) == 16) {
            const Vector vector = load_from_shared(reinterpret_cast<const unsigned char*>(from));
            std::memcpy(values + run * Tile::kRun, &vector, sizeof vector);
        } else {
#pragma unroll
            for (int i = 0; i < Tile::kRun; ++i) values[run * Tile::kRun + i] = from[i];
        }
    }
}

// sums += a b, k < depth. a(i, row, k) and b(i, column, k) give what this thread loads i-th of the operands (`loaded`):
// an element, or a Pack of which depth is a multiple; `columns_adjacent` says which way b is walked. All threads of the
// block call.
template <class T, class Tile, class A, class B>
__device__ inline void accumulate(T (&sums)[Tile::kEach][Tile::kEach], std::int64_t depth, bool columns_adjacent,
                                  const A& a, const B& b) {
    T* const shared_a = reinterpret_cast<T*>(shared_memory());
    T* const shared_b = shared_a + kDepth * Tile::kPitch;
    const int side = static_cast<int>(threadIdx.x) % kProductSide, down = static_cast<int>(threadIdx.x) / kProductSide;
    using Values = decltype(a(0, 0, std::int64_t{0}));
    constexpr int kVector = static_cast<int>(sizeof(Values) / sizeof(T)), kLoads = Tile::kLoads / kVector;
    Values next_a[kLoads], next_b[kLoads];
    const auto fetch = [&](std::int64_t begin) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const Loaded at = loaded<Tile, kVector>(i, false), other = loaded<Tile, kVector>(i, columns_adjacent);
            next_a[i] = begin + at.k < depth ? a(i, at.row, begin + at.k) : Values{};
            next_b[i] = begin + other.k < depth ? b(i, other.row, begin + other.k) : Values{};
        }
    };
    const auto put = [](T* position, const Values& values) {
        T each[kVector];
        std::memcpy(each, &values, sizeof each);
#pragma unroll
        for (int k = 0; k < kVector; ++k) position[k * Tile::kPitch] = each[k];
    };
    fetch(0);
    for (std::int64_t begin = 0; begin < depth; begin += kDepth) {
        block_barrier();  // what was there is summed
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const Loaded at = loaded<Tile, kVector>(i, false), other = loaded<Tile, kVector>(i, columns_adjacent);
            put(shared_a + at.k * Tile::kPitch + at.row, next_a[i]);
            put(shared_b + other.k * Tile::kPitch + other.row, next_b[i]);
        }
        block_barrier();
        if (begin + kDepth < depth) fetch(begin + kDepth);
#pragma unroll
        for (int k = 0; k < kDepth; ++k) {
            T rows[Tile::kEach], columns[Tile::kEach];
            load_side<T, Tile>(shared_a + k * Tile::kPitch, down, rows);
            load_side<T, Tile>(shared_b + k * Tile::kPitch, side, columns);
#pragma unroll
            for (int i = 0; i < Tile::kEach; ++i) {
#pragma unroll
                for (int j = 0; j < Tile::kEach; ++j) sums[i][j] = fused(rows[i], columns[j], sums[i][j]);
            }
        }
    }
}

}  // namespace tqs::cuda
