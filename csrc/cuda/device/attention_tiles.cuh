// Tiles of attention in shared memory, and the products of a thread's part of them.
//
// A block is 16 x 16 threads; thread (y, x) has the scores of queries kRows y ... and keys 4 x ..., and of the result
// the same queries and columns 4 x + 64 w .... Operands of a product lie with the summed axis outermost,
//
//     q, k     [1 + tangents][kSummed depths][queries or kKeys]         one chunk of depths at a time
//     v        [1 + tangents][kSummed keys][kWidth]                     one chunk of keys at a time, in the same place
//     weights  [1 + tangents][kKeys][queries]                           exp(s - m), and that times ds of each tangent
//
// Chunks are copied asynchronously into kStages places in turn, the next ones while one is used. With 4 tangents a
// chunk is 1152 multiply-adds of each thread, 2300 cycles of the multiprocessor, and one chunk ahead hides the memory's
// latency of some 800; with fewer tangents, and less to do on a chunk, three are.
//
// Operands lie so that a thread reads four neighbours at once and a warp few different ones. A step of a sum is then 4
// (1 + 2 K) kRows multiply-adds on 2 (1 + K) such reads for K tangents: with K = 4, 14 of them to a read of one or two
// passes through shared memory, which therefore is no limit.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/device/instructions.cuh"
#include "cuda/device/lanes.cuh"

namespace tqs::cuda {

inline constexpr int kAttentionThreads = 256;
inline constexpr int kKeys = 64;   // of a step of the online softmax
inline constexpr int kSummed = 8;  // of the summed axis in a chunk

template <class T>
struct alignas(16) Four {
    T values[4];
};

// What is known of a block when it is compiled.
template <class T_, int rows, int tangents, int widths>
struct AttentionShape {
    using T = T_;
    static constexpr int kRows = rows, kTangents = tangents, kWidths = widths, kSets = 1 + tangents;
    static constexpr int kQueries = 16 * rows, kWidth = 64 * widths;
    // Rows of tiles, in elements: what keeps columns written side by side in different banks, at multiples of 16 bytes.
    static constexpr int kQueryPitch = kQueries + 4, kKeyPitch = kKeys + 4;
    static constexpr int kWeightPitch = rows == 4 ? kQueries : kQueries + 1;

    static constexpr int kDepthTile = kSets * kSummed * (kQueryPitch + kKeyPitch);
    static constexpr int kValueTile = kSets * kSummed * kWidth;
    static constexpr int kTile = kDepthTile > kValueTile ? kDepthTile : kValueTile;
    static constexpr int kStages = tangents > 1 || sizeof(T) == 8 ? 2 : 4;
    static constexpr int kTiles = kStages * kTile;
    static constexpr int kWeights = kSets * kKeys * kWeightPitch;
    static constexpr int kTotals = kSets * kQueries;
    static constexpr int kPointers = 5 * kSets + 1;  // of 8 bytes, and the causal offset
    static constexpr std::size_t kShared =
        (static_cast<std::size_t>(kTiles + kWeights + kTotals) * sizeof(T) + kPointers * 8 + 127) / 128 * 128;

    // Of weights: element (key, first query of thread row y). Rows of four queries change places so that the threads of
    // a warp, whose keys are four apart, write to different banks.
    __device__ static int weight_place(int key, int y) {
        return key * kWeightPitch + rows * (rows == 4 ? y ^ (key / 4 % 8) : y);
    }
};

// Starts to copy a tile of at most kSummed columns of `rows` rows (a multiple of 8) of a matrix, transposed:
// to[column * pitch + row]. Rows from `valid_rows` and columns from `valid_columns` on, and all of a matrix that is
// null, become 0.
template <class T>
__device__ inline void copy_transposed(T* to, int pitch, int rows, const T* from, std::int64_t row_step,
                                       std::int64_t column_step, int valid_rows, int valid_columns) {
    const bool rows_adjacent = row_step == 1;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * kSummed; i += kAttentionThreads) {
        // Else a warp takes 8 rows of 4 columns: whole sectors there, two passes here.
        const int row = rows_adjacent ? i % rows : i % 8 + i / (8 * kSummed) * 8;
        const int column = rows_adjacent ? i / rows : i / 8 % kSummed;
        const bool valid = from && row < valid_rows && column < valid_columns;
        copy_element_async(to + column * pitch + row, valid ? from + row * row_step + column * column_step : from,
                           valid);
    }
}

// The same of kSummed rows of `columns` columns as they are: to[row * columns + column].
template <class T>
__device__ inline void copy_rows(T* to, int columns, const T* from, std::int64_t row_step, std::int64_t column_step,
                                 int valid_rows, int valid_columns) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kSummed * columns; i += kAttentionThreads) {
        const int row = i / columns, column = i % columns;
        const bool valid = from && row < valid_rows && column < valid_columns;
        copy_element_async(to + i, valid ? from + row * row_step + column * column_step : from, valid);
    }
}

template <int count, class T>
__device__ inline void read(T (&to)[count], const T* from) {
    if constexpr (count == 4) {
        Vector vectors[sizeof(T) / 4];
        const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
#pragma unroll
        for (std::size_t i = 0; i < sizeof(T) / 4; ++i) vectors[i] = load_from_shared(bytes + 16 * i);
        std::memcpy(to, vectors, sizeof(to));
    } else {
#pragma unroll
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }
}

// sums[r][c] += a[r] b[c]
template <int rows, class T>
__device__ inline void add_product(T (&sums)[rows][4], const T (&a)[rows], const T (&b)[4]) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[r][c] = fused(a[r], b[c], sums[r][c]);
    }
}

// The largest, or the sum, over the 16 threads of a row of the block, which all have it.
template <class T>
__device__ inline T row_maximum(T value) {
    for (int mask = 1; mask < 16; mask *= 2) {
        const T other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}
template <class T>
__device__ inline T row_sum(T value) {
    for (int mask = 1; mask < 16; mask *= 2) value += shuffle_xor(value, mask);
    return value;
}

}  // namespace tqs::cuda
