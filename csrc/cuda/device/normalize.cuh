// Rows of the last axes to unit variance (and zero mean), as in layer and root-mean-square normalisation:
// y = r (x - mean), r = 1 / sqrt(mean((x - mean)^2) + epsilon); dy = r (dx - mean(dx) - y mean(y dx)). Without `center`
// both means of the first order are 0. Squares are of what is left after the mean.
#pragma once

#include <cmath>

#include "cuda/device/rows.cuh"

namespace tqs::cuda {

struct NormalizeArgument {
    RowArgument row;
    double epsilon;
    bool center;
};

template <class T, Shape shape>
__global__ void __launch_bounds__(team_threads(shape)) normalize(const NormalizeArgument n) {
    begin_kernel();
    constexpr std::uint32_t kMembers = Team<shape>::kMembers;
    const RowArgument& a = n.row;
    const Team<shape> team;
    if (team.number >= a.rows.count) return;  // the whole team, which is a warp or the block
    const RowAccess<T> row(a, team.number);
    const std::uint32_t count = a.elements.count, member = static_cast<std::uint32_t>(team.member);
    T* const kept = kept_row<T, shape>(a);
    const T share = T(1) / static_cast<T>(count);
    T mean = T(0), inverse = T(0);

    const auto mean_of = [&](const auto& term) {
        ChunkedSum<T> sum;
        for (std::uint32_t i = member; i < count; i += kMembers) sum.add(term(i));
        return team.all(sum.value(), shared_memory(), Plus{}) * share;
    };
    const auto normalized = [&](const char* x, std::uint32_t i) {
        return a.kept ? kept[i] : (row.x(x, i) - mean) * inverse;
    };
    const auto primal = [&](std::int64_t lane, bool write) {
        const char* x = a.x.lane(lane, false);
        char* out = a.out.lane(lane, false);
        const auto element = [&](std::uint32_t i) {
            return row.x(x, i);
        };
        mean = n.center ? mean_of(element) : T(0);
        const T variance = mean_of([&](std::uint32_t i) {
            const T left = row.x(x, i) - mean;
            return left * left;
        });
        inverse = T(1) / std::sqrt(variance + static_cast<T>(n.epsilon));
        for (std::uint32_t i = member; i < count; i += kMembers) {
            const T y = (row.x(x, i) - mean) * inverse;
            if (a.kept) kept[i] = y;
            if (write) row.put(out, i, y);
        }
    };
    const auto tangent = [&](std::int64_t lane) {
        const char *x = a.x.lane(0, false), *dx = a.x.lane(lane, true);
        char* out = a.out.lane(lane, false);
        if (!dx) return row.clear(out, team);
        const auto element = [&](std::uint32_t i) {
            return row.x(dx, i);
        };
        const T moved = n.center ? mean_of(element) : T(0);
        const T slope = mean_of([&](std::uint32_t i) { return normalized(x, i) * row.x(dx, i); });
        for (std::uint32_t i = member; i < count; i += kMembers) {
            row.put(out, i, fused(-normalized(x, i), slope, row.x(dx, i) - moved) * inverse);
        }
    };
    for_lanes(a, primal, tangent);
}

}  // namespace tqs::cuda
