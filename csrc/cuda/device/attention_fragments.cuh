// Tiles of 16-bit attention in shared memory, and products of a warp's part of them on tensor cores.
//
// A warp has kWarpQueries queries. Of an operand of one lane shared memory holds rows of `depth` values, 16 bytes apart
// from what follows (a vector):
//
//     queries   [warps][1 + tangents][kWarpQueries]   q and dq, copied once
//     chunk     [1 + tangents][kKeys]          k and dk, or v and dv, of one step of keys; two of them take turns
//     mask      [kWarpQueries][8 keys] of each warp, on its way to the registers
//     shifts    [kWarpQueries] of each warp, float32: what tangents subtract from scores
//
// Vector v of row r lies at place v ^ turn(r), so that the eight rows which a matrix of ldmatrix reads at one v are in
// different banks, whatever the depth: rows are 64 bytes (two of them cover all banks) or a multiple apart.
//
// Of scores a lane has (g, 2t) and (g, 2t + 1) of rows g and g + 8: rounded and paired they are the left operand of the
// product with v, so that weights never leave the registers.
#pragma once

#include <cstdint>

#include "cuda/device/elements.cuh"
#include "cuda/device/operand.cuh"

namespace tqs::cuda {

inline constexpr int kWarpQueries = 32;  // queries of a warp
inline constexpr int kWarpTiles = 2;     // of 16 queries
inline constexpr int kMostWarps = 4;     // of a block
inline constexpr int kChunks = 2;
inline constexpr int kWarpMask = kWarpQueries * 8 * 2;  // bytes

// What is known of a block when it is compiled. `depth` is the larger one of D and E, padded.
template <class Element_, int depth, int tangents, int keys>
struct TensorShape {
    using Element = Element_;
    static constexpr int kDepth = depth, kTangents = tangents, kSets = 1 + tangents, kKeys = keys;
    static constexpr int kVectors = depth / 8, kRowBytes = 2 * depth;
    static constexpr int kChunk = kSets * kKeys * kRowBytes;

    static constexpr int queries(int warps) { return kWarpQueries * warps; }
    static constexpr int query_bytes(int warps) { return kSets * queries(warps) * kRowBytes; }
    static constexpr std::size_t shared_bytes(int warps) {
        constexpr int kRest = 5 * kSets * 8 + 48;  // pointers and numbers
        const int bytes = query_bytes(warps) + kChunks * kChunk + (kWarpMask + 4 * kWarpQueries) * warps + kRest;
        return static_cast<std::size_t>((bytes + 127) / 128 * 128);
    }
    // Of vector `vector` of row `row`, in bytes from the tile's begin.
    __device__ static int place(int row, int vector) {
        return row * kRowBytes + 16 * (vector ^ (kVectors % 8 == 0 ? row % 8 : row / 2 % 4));
    }
    // place(row, vector + 2 step) out of that for step 0, vector 0 or 1: most of it a number the compiler knows.
    __device__ static int place_after(int place, int step) {
        constexpr int kTurned = kVectors % 8 == 0 ? 4 : 2;  // steps within what `turn` moves
        return (place ^ 32 * (step % kTurned)) + 32 * (step - step % kTurned);
    }
};

// Starts to copy `rows` rows of `depth` values to a tile; rows from `valid_rows` and values from `valid_depth` (a
// multiple of 8) on, and all where `from` is null, become 0. Rows are `row_bytes` apart.
template <class Shape>
__device__ inline void copy_rows_async(unsigned char* tile, int rows, const char* from, std::int64_t row_bytes,
                                       int valid_rows, int valid_depth, int threads) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * Shape::kVectors; i += threads) {
        const int row = i / Shape::kVectors, vector = i % Shape::kVectors;
        const bool valid = from && row < valid_rows && 8 * vector < valid_depth;
        copy_async(tile + Shape::place(row, vector), valid ? from + row * row_bytes + 16 * vector : nullptr, valid);
    }
}

// [16 queries][8 keys]
template <int tiles>
using Scores = float[kWarpTiles][tiles][4];

template <class Element, int tiles>
__device__ inline void multiply_pair(Scores<tiles>& scores, const std::uint32_t (&left)[kWarpTiles][4],
                                     const std::uint32_t (&right)[4], int pair) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
        multiply(Element{}, scores[m][2 * pair], left[m], {right[0], right[1]});
        multiply(Element{}, scores[m][2 * pair + 1], left[m], {right[2], right[3]});
    }
}

// scores += q k^T, slopes += dq k^T + q dk^T of those that move, for the warp's rows of q and all keys: every operand
// is read once. Tiles of dq and dk follow those of q and k.
template <class Shape, bool q_moves, bool k_moves, int slopes_count, int tiles>
__device__ inline void add_scores(Scores<tiles>& scores, Scores<tiles> (&slopes)[slopes_count], const unsigned char* q,
                                  const unsigned char* k) {
    using Element = typename Shape::Element;
    constexpr int kTangents = Shape::kTangents, kNextQ = kWarpQueries * Shape::kRowBytes;
    constexpr int kNextK = Shape::kKeys * Shape::kRowBytes;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int q_place = Shape::place(lane % 16, lane / 16);
    const int k_place = Shape::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < Shape::kDepth / 16; ++step) {
        std::uint32_t left[1 + kTangents][kWarpTiles][4];
#pragma unroll
        for (int set = 0; set < (q_moves ? 1 + kTangents : 1); ++set) {
#pragma unroll
            for (int m = 0; m < kWarpTiles; ++m) {
                load_matrices(q + set * kNextQ + Shape::place_after(q_place, step) + 16 * m * Shape::kRowBytes,
                              left[set][m]);
            }
        }
#pragma unroll
        for (int pair = 0; pair < tiles / 2; ++pair) {
            const unsigned char* const from = k + Shape::place_after(k_place, step) + 16 * pair * Shape::kRowBytes;
            std::uint32_t right[4];
            load_matrices(from, right);
            multiply_pair<Element>(scores, left[0], right, pair);
            if constexpr (q_moves) {
#pragma unroll
                for (int n = 0; n < kTangents; ++n) multiply_pair<Element>(slopes[n], left[n + 1], right, pair);
            }
            if constexpr (k_moves) {
#pragma unroll
                for (int n = 0; n < kTangents; ++n) {
                    load_matrices(from + (n + 1) * kNextK, right);
                    multiply_pair<Element>(slopes[n], left[0], right, pair);
                }
            }
        }
    }
}

// The rounded weights of 32 queries and `tiles` x 8 keys, as left operands.
template <int tiles>
using Weights = std::uint32_t[kWarpTiles][tiles][2];

template <class Element, int tiles>
__device__ inline void round_weights(Weights<tiles>& rounded, const Scores<tiles>& weights) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                rounded[m][tile][half] = pair_of(Element{}, weights[m][tile][2 * half], weights[m][tile][2 * half + 1]);
            }
        }
    }
}

// The right operands of 16 keys from `key` and 16 columns from `column` of v.
template <class Shape>
__device__ inline void load_values(std::uint32_t (&right)[4], const unsigned char* v, int key, int column) {
    const int lane = static_cast<int>(threadIdx.x) % 32, place = Shape::place(lane % 16, lane / 16);
    load_matrices_transposed(v + Shape::place_after(place, column / 16) + key * Shape::kRowBytes, right);
}

// sums [16 queries][16 columns] += weights v for the 16 keys from `key` whose right operands are given.
template <class Element, int tiles, int columns>
__device__ inline void add_values(float (&sums)[kWarpTiles][columns][4], const Weights<tiles>& weights,
                                  const std::uint32_t (&right)[4], int key, int column) {
#pragma unroll
    for (int m = 0; m < kWarpTiles; ++m) {
        const std::uint32_t left[4] = {weights[m][key / 8][0], weights[m][key / 8][1], weights[m][key / 8 + 1][0],
                                       weights[m][key / 8 + 1][1]};
        multiply(Element{}, sums[m][column / 8], left, {right[0], right[1]});
        multiply(Element{}, sums[m][column / 8 + 1], left, {right[2], right[3]});
    }
}

}  // namespace tqs::cuda
