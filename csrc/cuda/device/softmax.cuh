// softmax and its logarithm along the last axis. With p = softmax(x): dp = p (dx - sum p dx), d log p = dx - sum p dx.
// p is kept in shared memory for the tangents of all lanes, or computed again where a row is too long.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/device/rows.cuh"

namespace tqs::cuda {

struct SoftmaxArgument {
    RowArgument row;
    bool logarithm;
};

template <class T, Shape shape>
__global__ void __launch_bounds__(team_threads(shape)) softmax(const SoftmaxArgument s) {
    begin_kernel();
    constexpr std::uint32_t kMembers = Team<shape>::kMembers;
    const RowArgument& a = s.row;
    const Team<shape> team;
    if (team.number >= a.rows.count) return;  // the whole team, which is a warp or the block
    const RowAccess<T> row(a, team.number);
    const std::uint32_t count = a.elements.count, member = static_cast<std::uint32_t>(team.member);
    T* const kept = kept_row<T, shape>(a);
    const First<T> largest{T(1)};
    T top = T(0), total = T(0);

    const auto probability = [&](const char* x, std::uint32_t i) {
        return a.kept ? kept[i] : std::exp(row.x(x, i) - top) / total;
    };
    const auto primal = [&](std::int64_t lane, bool write) {
        const char* x = a.x.lane(lane, false);
        char* out = a.out.lane(lane, false);
        Choice<T> best{T(0), -1};
        for (std::uint32_t i = member; i < count; i += kMembers) {
            best = largest(best, Choice<T>{row.x(x, i), static_cast<std::int32_t>(i)});
        }
        top = team.all(best, shared_memory(), largest).value;
        ChunkedSum<T> sum;
        for (std::uint32_t i = member; i < count; i += kMembers) {
            const T e = std::exp(row.x(x, i) - top);
            if (a.kept) kept[i] = e;
            sum.add(e);
        }
        total = team.all(sum.value(), shared_memory(), Plus{});
        const T log_total = s.logarithm ? std::log(total) : T(0);
        for (std::uint32_t i = member; i < count; i += kMembers) {
            if (a.kept) kept[i] = kept[i] / total;
            if (write) row.put(out, i, s.logarithm ? (row.x(x, i) - top) - log_total : probability(x, i));
        }
    };
    const auto tangent = [&](std::int64_t lane) {
        const char *x = a.x.lane(0, false), *dx = a.x.lane(lane, true);
        char* out = a.out.lane(lane, false);
        if (!dx) return row.clear(out, team);
        ChunkedSum<T> sum;
        for (std::uint32_t i = member; i < count; i += kMembers) sum.add(probability(x, i) * row.x(dx, i));
        const T mean = team.all(sum.value(), shared_memory(), Plus{});
        for (std::uint32_t i = member; i < count; i += kMembers) {
            const T centred = row.x(dx, i) - mean;
            row.put(out, i, s.logarithm ? centred : probability(x, i) * centred);
        }
    };
    for_lanes(a, primal, tangent);
}

}  // namespace tqs::cuda
