// Copies: strided and converting, by runs, and by index. In a tangent rollout a lane whose input has no tangent is
// written with zeros. T is the type of the output as it is stored. Threads side by side take elements side by side in
// the output, or in squares through shared memory where input and output lie along different axes.
#pragma once

#include <limits>

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

inline constexpr int kMovementThreads = 256;
inline constexpr int kSquare = 32;  // edge of a transposed square; a warp reads and writes one row of it at a time

struct CopyArgument {
    Loops<2> loops;  // of out, x; ordered by out's strides
    Lanes out, x;
    bool tangent;
    bool whole_packs;  // both by Packs
    std::int64_t lanes;
    // transpose: the innermost two loops, of which x is adjacent along the outer; `loops` are the others
    std::uint32_t rows, columns;
    std::int64_t out_row, x_column;
};

template <class T>
__global__ void __launch_bounds__(kMovementThreads) copy(const CopyArgument a) {
    begin_kernel();
    constexpr std::uint32_t kEach = Pack<T>::kEach;
    const std::uint32_t thread = blockIdx.x * kMovementThreads + threadIdx.x;
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        char* out = a.out.lane(lane, false);
        const char* x = a.x.lane(lane, a.tangent);
        if (a.whole_packs) {
            const std::uint32_t first = thread * kEach;
            if (first >= a.loops.count) return;
            const auto from =
                x ? *reinterpret_cast<const Pack<T>*>(reinterpret_cast<const T*>(x) + a.loops.offset(1, first))
                  : Pack<T>{};
            *reinterpret_cast<Pack<T>*>(reinterpret_cast<T*>(out) + a.loops.offset(0, first)) = from;
        } else {
            if (thread >= a.loops.count) return;
            const T value = x ? load<T>(x, a.x.precision, a.loops.offset(1, thread)) : T(0);
            reinterpret_cast<T*>(out)[a.loops.offset(0, thread)] = value;
        }
    }
}

// out[i * out_row + j] = x[i + j * x_column], by squares: grid x counts them, the other loops around them. (Of 6 blocks
// at a time: the 32 registers that the compiler would try to live with on sm_80 are not enough.)
template <class T>
__global__ void __launch_bounds__(kMovementThreads, 6) transpose(const CopyArgument a) {
    begin_kernel();
    auto* square = reinterpret_cast<T*>(shared_memory());  // [kSquare][kSquare + 1]: columns fall into different banks
    constexpr int kPitch = kSquare + 1, kRows = kMovementThreads / kSquare;
    const auto column = static_cast<int>(threadIdx.x) % kSquare, row = static_cast<int>(threadIdx.x) / kSquare;
    const std::uint32_t across = (a.columns + kSquare - 1) / kSquare, down = (a.rows + kSquare - 1) / kSquare;
    const std::uint32_t outer = blockIdx.x / (across * down), inside = blockIdx.x % (across * down);
    const std::int64_t top = std::int64_t{inside / across} * kSquare, left = std::int64_t{inside % across} * kSquare;
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        T* out = reinterpret_cast<T*>(a.out.lane(lane, false)) + a.loops.offset(0, outer);
        const char* x = a.x.lane(lane, a.tangent);
        const std::int64_t from = a.loops.offset(1, outer);
        for (int j = row; j < kSquare; j += kRows) {
            if (top + column >= a.rows || left + j >= a.columns) continue;
            const std::int64_t offset = from + top + column + (left + j) * a.x_column;
            square[column * kPitch + j] = x ? load<T>(x, a.x.precision, offset) : T(0);
        }
        block_barrier();
        for (int i = row; i < kSquare; i += kRows) {
            if (top + i < a.rows && left + column < a.columns) {
                out[(top + i) * a.out_row + left + column] = square[i * kPitch + column];
            }
        }
        block_barrier();
    }
}

struct RemapArgument {
    Lanes out, x;
    const Run* run;  // sorted by `to`
    std::uint32_t runs, elements;
    std::int64_t samples, out_sample, x_sample;
    double fill;
    bool tangent;
    std::int64_t lanes;
};

// A thread per element; its run is the last that begins at or before it.
template <class T>
__global__ void __launch_bounds__(kMovementThreads) remap(const RemapArgument a) {
    begin_kernel();
    const std::uint32_t element = blockIdx.x * kMovementThreads + threadIdx.x;
    if (element >= a.elements) return;
    std::uint32_t low = 0, high = a.runs;
    while (high - low > 1) {
        const std::uint32_t middle = (low + high) / 2;
        (a.run[middle].to <= element ? low : high) = middle;
    }
    const Run run = a.run[low];
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        char* out = a.out.lane(lane, false);
        const char* x = a.x.lane(lane, a.tangent);
        const T fill = a.tangent && lane > 0 ? T(0) : rounded<T>(a.fill);
        for (std::int64_t sample = blockIdx.z; sample < a.samples; sample += gridDim.z) {
            const std::int64_t offset = sample * a.x_sample + run.from + (element - run.to) * run.step;
            reinterpret_cast<T*>(out)[sample * a.out_sample + element] =
                x && run.from >= 0 ? load<T>(x, a.x.precision, offset) : fill;
        }
    }
}

struct GatherArgument {
    Loops<3> loops;  // of out, index, x (without its indexed axis)
    Lanes out, index, x;
    std::int64_t step, size;  // of the indexed axis of x
    bool tangent;
    std::int64_t lanes;
};

template <class T>
__global__ void __launch_bounds__(kMovementThreads) gather(const GatherArgument a) {
    begin_kernel();
    const std::uint32_t element = blockIdx.x * kMovementThreads + threadIdx.x;
    if (element >= a.loops.count) return;
    const std::int64_t to = a.loops.offset(0, element), at = a.loops.offset(1, element);
    const std::int64_t from = a.loops.offset(2, element);
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        const char* x = a.x.lane(lane, a.tangent);
        T value = T(0);
        if (x) {
            const auto chosen = load<double>(a.index.lane(a.tangent ? 0 : lane, false), a.index.precision, at);
            value = rounded<T>(std::numeric_limits<float>::quiet_NaN());
            if (chosen >= 0.0 && chosen < static_cast<double>(a.size)) {
                value = load<T>(x, a.x.precision, from + static_cast<std::int64_t>(chosen) * a.step);
            }
        }
        reinterpret_cast<T*>(a.out.lane(lane, false))[to] = value;
    }
}

}  // namespace tqs::cuda
