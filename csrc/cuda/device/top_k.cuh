// The largest or smallest elements of the last axis, in order, and where they were: a team chooses, `count` times, the
// first element that comes after the one chosen before, so that nothing has to be marked. NaN counts as the largest; of
// equal elements the one at the lower position comes first. The tangent of a value is that of its element.
#pragma once

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device/team.cuh"

namespace tqs::cuda {

struct TopKArgument {
    Loops<3> rows;  // of x, values, positions
    Lanes x, values, positions;
    std::uint32_t elements, count;
    std::int64_t x_step, values_step, positions_step;
    bool tangent, largest;
    std::int64_t lanes;
};

// The order of a row's elements: of the largest (NaN first) or of the smallest (NaN last).
template <class T>
struct Ranked {
    bool largest;
    __device__ bool before(const Choice<T>& a, const Choice<T>& b) const {
        if (a.position < 0 || b.position < 0) return b.position < 0;
        const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
        if (a_nan != b_nan) return largest ? a_nan : b_nan;
        if (a_nan || a.value == b.value) return a.position < b.position;
        return largest ? a.value > b.value : a.value < b.value;
    }
    __device__ Choice<T> operator()(const Choice<T>& a, const Choice<T>& b) const { return before(a, b) ? a : b; }
};

template <class T, Shape shape>
__global__ void __launch_bounds__(team_threads(shape)) top_k(const TopKArgument a) {
    begin_kernel();
    const Team<shape> team;
    if (team.number >= a.rows.count) return;  // the whole team, which is a warp or the block
    const std::int64_t from = a.rows.offset(0, team.number), to = a.rows.offset(1, team.number);
    const std::int64_t to_position = a.rows.offset(2, team.number);
    const Ranked<T> ranked{a.largest};
    const auto value = [&](const char* x, std::uint32_t i) {
        return load<T>(x, a.x.precision, from + i * a.x_step);
    };
    const auto put = [&](std::int64_t lane, std::uint32_t i, T chosen, T position) {
        store(a.values.lane(lane, false), a.values.precision, to + i * a.values_step, chosen);
        store(a.positions.lane(lane, false), a.positions.precision, to_position + i * a.positions_step, position);
    };
    const std::int64_t passes = a.tangent ? 1 : a.lanes;
    for (std::int64_t lane = blockIdx.y; lane < passes; lane += gridDim.y) {
        const char* x = a.x.lane(lane, false);
        Choice<T> last{T(0), -1};
        for (std::uint32_t i = 0; i < a.count; ++i) {
            Choice<T> best{T(0), -1};
            for (auto j = static_cast<std::uint32_t>(team.member); j < a.elements;
                 j += static_cast<std::uint32_t>(Team<shape>::kMembers)) {
                const Choice<T> candidate{value(x, j), static_cast<std::int32_t>(j)};
                if (last.position < 0 || ranked.before(last, candidate)) best = ranked(best, candidate);
            }
            last = team.all(best, shared_memory(), ranked);
            if (last.position < 0) return;  // never: count <= elements, and the order is total
            if (team.member == 0) put(lane, i, last.value, static_cast<T>(last.position));
            for (std::int64_t other = 1 + team.member; a.tangent && other < a.lanes; other += Team<shape>::kMembers) {
                const char* dx = a.x.lane(other, true);
                put(other, i, dx ? value(dx, static_cast<std::uint32_t>(last.position)) : T(0), T(0));
            }
        }
    }
}

}  // namespace tqs::cuda
