// Running sums, products and extremes along one axis. Sums and products run in float64 whatever the precision, so that
// long sums keep the accuracy of their terms. Two forms, chosen by the strides within a sample:
//
//     across  a thread per column, step after step; threads side by side take columns side by side
//     along   a warp per column, 32 steps at a time by doubling, for columns whose own steps are adjacent
//
// Both leave after step i what elements 0 ... i come to; the form (not the grid) fixes the order of the sums.
#pragma once

#include <limits>

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device/reduce.cuh"

namespace tqs::cuda {

inline constexpr int kScanThreads = 128;

struct ScanArgument {
    Loops<3> columns;  // of x, out, positions
    Lanes x, out, positions;
    std::uint32_t steps;
    std::int64_t x_step, out_step, positions_step;
    bool tangent;
    bool linear;   // all lanes alike
    bool largest;  // of an extreme
    std::int64_t lanes, tangents_each;
};

// The later of equal elements; NaN replaces every number, and a later NaN an earlier one.
template <class T>
struct Later {
    T sign;
    __device__ Choice<T> operator()(const Choice<T>& a, const Choice<T>& b) const {
        return b.position >= 0 && (a.position < 0 || b.value != b.value || b.value * sign >= a.value * sign) ? b : a;
    }
};

// Calls element(step) for each step and put(step, what elements 0 ... step come to), in a thread or a warp; all of its
// lanes call.
template <bool along, class S, class Combine, class Element, class Put>
__device__ inline void scan_column(std::uint32_t steps, S carry, const Combine& combine, const Element& element,
                                   const Put& put) {
    if constexpr (!along) {
#pragma unroll 2
        for (std::uint32_t step = 0; step < steps; ++step) {
            carry = combine(carry, element(step));
            put(step, carry);
        }
    } else {
        const int own = static_cast<int>(threadIdx.x) % 32;
        for (std::uint32_t base = 0; base < steps; base += 32) {
            const std::uint32_t step = base + static_cast<std::uint32_t>(own);
            S state = element(step < steps ? step : steps - 1);
            for (int by = 1; by < 32; by *= 2) {
                const S before = from_lane(state, own >= by ? own - by : own);
                if (own >= by) state = combine(before, state);
            }
            state = combine(carry, state);
            if (step < steps) put(step, state);
            carry = from_lane(state, 31);
        }
    }
}

// The column of this thread (or warp), if there is one.
template <bool along>
__device__ inline bool column_of(const ScanArgument& a, std::uint32_t& column) {
    column = blockIdx.x * (along ? kScanThreads / 32 : kScanThreads) + (along ? threadIdx.x / 32 : threadIdx.x);
    return column < a.columns.count;  // for a whole warp where warps work together
}

template <bool along, bool product>
__global__ void __launch_bounds__(kScanThreads) scan(const ScanArgument a) {
    begin_kernel();
    std::uint32_t column;
    if (!column_of<along>(a, column)) return;
    const std::int64_t from = a.columns.offset(0, column), to = a.columns.offset(1, column);
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        const bool moved = a.tangent && lane > 0;
        const char* x = a.x.lane(moved && product ? 0 : lane, moved);
        const char* dx = moved && product ? a.x.lane(lane, true) : nullptr;
        char* out = a.out.lane(lane, false);
        const auto value = [&](const char* data, std::uint32_t step) {
            return data ? load<double>(data, a.x.precision, from + step * a.x_step) : 0.0;
        };
        const auto put = [&](std::uint32_t step, double result) {
            store(out, a.out.precision, to + step * a.out_step, result);
        };
        if constexpr (product) {
            scan_column<along>(
                a.steps, Running{1.0, 0.0}, Times{},
                [&](std::uint32_t step) { return Running{value(x, step), value(dx, step)}; },
                [&](std::uint32_t step, const Running& r) { put(step, moved ? r.tangent : r.product); });
        } else {
            scan_column<along>(a.steps, 0.0, Plus{}, [&](std::uint32_t step) { return value(x, step); }, put);
        }
    }
}

template <class T, bool along>
__global__ void __launch_bounds__(kScanThreads, 8) running_extreme(const ScanArgument a) {
    begin_kernel();
    std::uint32_t column;
    if (!column_of<along>(a, column)) return;
    const std::int64_t from = a.columns.offset(0, column), to = a.columns.offset(1, column);
    const std::int64_t to_position = a.columns.offset(2, column);
    const auto value = [&](const char* data, std::uint32_t step) {
        return load<T>(data, a.x.precision, from + step * a.x_step);
    };
    const auto put = [&](std::int64_t lane, std::uint32_t step, T chosen, T position) {
        store(a.out.lane(lane, false), a.out.precision, to + step * a.out_step, chosen);
        store(a.positions.lane(lane, false), a.positions.precision, to_position + step * a.positions_step, position);
    };
    const auto run = [&](std::int64_t lane, const auto& results) {
        const char* x = a.x.lane(lane, false);
        scan_column<along>(
            a.steps, Choice<T>{T(0), -1}, Later<T>{a.largest ? T(1) : T(-1)},
            [&](std::uint32_t step) { return Choice<T>{value(x, step), static_cast<std::int32_t>(step)}; }, results);
    };
    if (!a.tangent) {
        for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
            run(lane, [&](std::uint32_t step, const Choice<T>& choice) {
                put(lane, step, choice.value, static_cast<T>(choice.position));
            });
        }
        return;
    }
    const std::int64_t begin = 1 + blockIdx.y * a.tangents_each, end = begin + a.tangents_each;
    run(0, [&](std::uint32_t step, const Choice<T>& choice) {
        if (blockIdx.y == 0) put(0, step, choice.value, static_cast<T>(choice.position));
#pragma unroll 1
        for (std::int64_t lane = begin; lane < end && lane < a.lanes; ++lane) {
            const char* dx = a.x.lane(lane, true);
            put(lane, step, dx ? value(dx, static_cast<std::uint32_t>(choice.position)) : T(0), T(0));
        }
    });
}

}  // namespace tqs::cuda
