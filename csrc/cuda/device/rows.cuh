// Kernels that treat the last axes of a tensor as rows, a team each.
#pragma once

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device/team.cuh"

namespace tqs::cuda {

// Rows of at most so many elements are a warp's; longer ones, which would keep it busy for 16 rounds, a block's.
inline constexpr std::int64_t kWarpRow = 512;
// The elements of a row that a block keeps at hand in shared memory between passes, at most: 32 KiB of float64.
inline constexpr std::int64_t kKeptRow = 4096;

// Operand 0 is x, operand 1 out.
struct RowArgument {
    Loops<2> rows, elements;
    Lanes x, out;
    bool tangent, kept;
    std::int64_t lanes, tangents_each;
};

// One row: `at(lane)` pointers, element by element.
template <class T>
struct RowAccess {
    const RowArgument& a;
    std::int64_t x_offset, out_offset;

    __device__ RowAccess(const RowArgument& argument, std::uint32_t row)
        : a(argument), x_offset(argument.rows.offset(0, row)), out_offset(argument.rows.offset(1, row)) {}

    __device__ T x(const char* data, std::uint32_t i) const {
        return load<T>(data, a.x.precision, x_offset + a.elements.offset(0, i));
    }
    __device__ void put(char* data, std::uint32_t i, T value) const {
        store(data, a.out.precision, out_offset + a.elements.offset(1, i), value);
    }
    // Zeros, by the members of a team.
    template <Shape shape>
    __device__ void clear(char* data, const Team<shape>& team) const {
        for (std::uint32_t i = team.member; i < a.elements.count; i += Team<shape>::kMembers) put(data, i, T(0));
    }
};

// Calls primal(lane, write) and, in a tangent rollout, then tangent(lane) for this block's lanes.
template <class Primal, class Tangent>
__device__ inline void for_lanes(const RowArgument& a, const Primal& primal, const Tangent& tangent) {
    if (!a.tangent) {
        for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) primal(lane, true);
        return;
    }
    primal(0, blockIdx.y == 0);
    const std::int64_t begin = 1 + blockIdx.y * a.tangents_each, end = begin + a.tangents_each;
    for (std::int64_t lane = begin; lane < end && lane < a.lanes; ++lane) tangent(lane);
}

// What a row keeps in shared memory, behind what its team needs: element i belongs to one member, which alone touches
// it.
template <class T, Shape shape>
__device__ inline T* kept_row(const RowArgument& a) {
    const int team = shape == Shape::warp ? static_cast<int>(threadIdx.x) / 32 : 0;
    return reinterpret_cast<T*>(shared_memory() + team_bytes(shape)) + team * static_cast<int>(a.elements.count);
}

}  // namespace tqs::cuda
