// Tiles of products with 16-bit operands on the tensor cores (mma.sync m16n8k16), sums in float32. A block of threads
// sums a tile of kRows x kColumns outputs; both operands stream through shared memory, kTensorDepth positions of k at a
// time, in a ring of kStages that cp.async fills kStages - 1 stages ahead.
//
//   slab    64 rows or columns or positions of k by 128 bytes, the only form that shared memory has: vector v (16
//   bytes)
//           of row r lies at place v ^ (r mod 8), so that the eight rows of an 8 x 8 matrix cover all 32 banks
//   stage   left [kRows] by 64 positions of k, then right [kColumns] by 64 positions of k; or, where columns are what
//           is adjacent in memory, right as slabs of 64 positions of k by 64 columns
//
// A warp has kWarpRows x kWarpColumns of the tile. With 64 x 64 it reads 8 times 512 bytes from shared memory for 32
// instructions: 128 + 64 (the copies) of the 205 cycles that four such warps multiply for on an H200, where mma.sync
// reaches some 62 % of what wgmma does. Smaller warp tiles would be limited by shared memory.
//
// An output is one chain of instructions in order of k, padded with zeros to a multiple of 64: the same bits in every
// shape of tile and wherever it lies in one.
#pragma once

#include <cstdint>

#include "cuda/device/elements.cuh"
#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

inline constexpr int kTensorDepth = 64;  // positions of k in a stage
inline constexpr int kTensorPitch = 2 * kTensorDepth;
inline constexpr int kTensorVector = 8;  // elements in 16 bytes
inline constexpr int kTensorVectors = kTensorDepth / kTensorVector;

template <int kRows_, int kColumns_, int kDown_, int kAcross_, int kStages_>
struct TensorShape {
    static constexpr int kRows = kRows_, kColumns = kColumns_, kStages = kStages_;
    static constexpr int kAcross = kAcross_;  // warps side by side
    static constexpr int kThreads = 32 * kDown_ * kAcross_;
    static constexpr int kWarpRows = kRows / kDown_, kWarpColumns = kColumns / kAcross_;
    static constexpr int kStageBytes = (kRows + kColumns) * kTensorPitch;
    static constexpr int kRingBytes = kStages * kStageBytes;
    // Of a row of results on their way out: 16 bytes more than a multiple of 128, for the banks.
    static constexpr int kResultPitch = 2 * kColumns + 16;
    static_assert(kRows * kResultPitch <= kRingBytes && kColumns % 64 == 0 && kThreads % 64 == 0);
};

template <class Shape>
using TensorSums = float[Shape::kWarpRows / 16][Shape::kWarpColumns / 8][4];

// Where this warp's part of the tile begins.
template <class Shape>
struct TensorPart {
    int row, column;
    __device__ TensorPart()
        : row(static_cast<int>(threadIdx.x) / 32 / Shape::kAcross * Shape::kWarpRows),
          column(static_cast<int>(threadIdx.x) / 32 % Shape::kAcross * Shape::kWarpColumns) {}
};

__device__ inline int slab_place(int row, int vector) {
    return row * kTensorPitch + (vector ^ row % 8) * 16;
}

// Where a vector comes from; not `valid`: zeros, and the address may be anything.
struct TensorSource {
    const std::uint16_t* from;
    bool valid;
};

// Copies `count` rows of 64 elements from source(row, vector) into slabs at `to`.
template <class Shape, int count, class Source>
__device__ inline void fill_slab(unsigned char* to, const Source& source) {
    constexpr int kVectors = count * kTensorVectors, kCopies = (kVectors + Shape::kThreads - 1) / Shape::kThreads;
    const int thread = static_cast<int>(threadIdx.x), vector = thread % kTensorVectors;
    TensorSource
        sources[kCopies];  // all before the first copy, which none is moved past: they wait for memory together
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
        const int row = (i * Shape::kThreads + thread) / kTensorVectors;
        if (kVectors % Shape::kThreads == 0 || row < count) sources[i] = source(row, vector);
    }
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
        const int row = (i * Shape::kThreads + thread) / kTensorVectors;
        if (kVectors % Shape::kThreads == 0 || row < count) {
            copy_async(to + slab_place(row, vector), sources[i].from, sources[i].valid);
        }
    }
}

// sums += left right^T of the stage at `stage`.
template <class Element, class Shape, bool columns_adjacent>
__device__ inline void multiply_stage(const unsigned char* stage, TensorSums<Shape>& sums) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const TensorPart<Shape> part;
    const unsigned char* const right = stage + Shape::kRows * kTensorPitch;
#pragma unroll
    for (int step = 0; step < kTensorDepth / 16; ++step) {
        std::uint32_t a[Shape::kWarpRows / 16][4], b[Shape::kWarpColumns / 8][2];
#pragma unroll
        for (int i = 0; i < Shape::kWarpRows / 16; ++i) {
            load_matrices(stage + slab_place(part.row + 16 * i + lane % 16, 2 * step + lane / 16), a[i]);
        }
#pragma unroll
        for (int j = 0; j < Shape::kWarpColumns / 16; ++j) {
            std::uint32_t both[4];  // of 16 columns
            const int column = part.column + 16 * j;
            if constexpr (columns_adjacent) {
                load_matrices_transposed(right + column / 64 * (kTensorDepth * kTensorPitch) +
                                             slab_place(16 * step + lane % 16, column % 64 / 8 + lane / 16),
                                         both);
            } else {
                load_matrices(right + slab_place(column + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2), both);
            }
            b[2 * j][0] = both[0];
            b[2 * j][1] = both[1];
            b[2 * j + 1][0] = both[2];
            b[2 * j + 1][1] = both[3];
        }
#pragma unroll
        for (int i = 0; i < Shape::kWarpRows / 16; ++i) {
#pragma unroll
            for (int j = 0; j < Shape::kWarpColumns / 8; ++j) multiply(Element{}, sums[i][j], a[i], b[j]);
        }
    }
}

// sums += the products of `stages` stages; fill(number, left, right) copies stage `number`. All threads call.
template <class Element, class Shape, bool columns_adjacent, class Fill>
__device__ inline void multiply_stages(int stages, const Fill& fill, TensorSums<Shape>& sums) {
    unsigned char* const ring = shared_memory();
    const auto fill_at = [&](int number, int place) {
        unsigned char* const to = ring + place * Shape::kStageBytes;
        fill(number, to, to + Shape::kRows * kTensorPitch);
    };
#pragma unroll
    for (int ahead = 0; ahead < Shape::kStages - 1; ++ahead) {
        if (ahead < stages) fill_at(ahead, ahead);
        commit_copies();
    }
    int place = 0;
    for (int number = 0; number < stages; ++number) {
        wait_copies<Shape::kStages - 2>();
        block_barrier();  // everybody's copies of this stage are there, and nobody reads the one before it any more
        const int ahead = number + Shape::kStages - 1;
        if (ahead < stages) fill_at(ahead, place == 0 ? Shape::kStages - 1 : place - 1);
        commit_copies();
        multiply_stage<Element, Shape, columns_adjacent>(ring + place * Shape::kStageBytes, sums);
        place = place + 1 == Shape::kStages ? 0 : place + 1;
    }
}

// Rounds the tile and writes it, by way of shared memory so that a warp writes whole rows. Column 0 of a row goes to
// target(row), null: nowhere; bias(row), null: none, is added before. `columns` of the tile exist; `vectors`: they are
// a multiple of 8 and targets are 16-byte aligned. All threads call.
template <class Element, class Shape, class Bias, class Target>
__device__ inline void write_tile(const TensorSums<Shape>& sums, std::int64_t columns, bool vectors, const Bias& bias,
                                  const Target& target) {
    constexpr int kPairs = Shape::kWarpColumns / 8;
    unsigned char* const results = shared_memory();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const TensorPart<Shape> part;
    const int first_column = part.column + 2 * (lane % 4);
    const Element* held = nullptr;  // the row before had this bias: as a rule all rows have
    float added[kPairs][2] = {};
    block_barrier();  // the last stage is read
#pragma unroll
    for (int i = 0; i < Shape::kWarpRows / 8; ++i) {
        const int row = part.row + 8 * i + lane / 4;
        const Element* const own = bias(row);
        if (own != held) {
            held = own;
#pragma unroll
            for (int j = 0; j < 2 * kPairs; ++j) {
                const int column = first_column + 8 * (j / 2) + j % 2;
                added[j / 2][j % 2] = own && column < columns ? to_float(own[column]) : 0.0f;
            }
        }
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
            const float* sum = sums[i / 2][j] + 2 * (i % 2);
            *reinterpret_cast<std::uint32_t*>(results + row * Shape::kResultPitch + 2 * (first_column + 8 * j)) =
                pair_of(Element{}, sum[0] + added[j][0], sum[1] + added[j][1]);
        }
    }
    block_barrier();
    constexpr int kAlong = Shape::kColumns / kTensorVector;
    for (int index = static_cast<int>(threadIdx.x); index < Shape::kRows * kAlong; index += Shape::kThreads) {
        const int row = index / kAlong, column = index % kAlong * kTensorVector;
        const unsigned char* const from = results + row * Shape::kResultPitch + 2 * column;
        const Vector elements = load_from_shared(from);
        Element* const to = target(row);
        if (!to || column >= columns) continue;
        if (vectors) {
            *reinterpret_cast<Vector*>(to + column) = elements;
            continue;
        }
        for (int e = 0; e < kTensorVector && column + e < columns; ++e) {
            to[column + e] = reinterpret_cast<const Element*>(from)[e];
        }
    }
}

}  // namespace tqs::cuda
