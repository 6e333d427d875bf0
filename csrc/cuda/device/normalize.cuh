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

template <class T, Shape shape, int rounds>
__global__ void __launch_bounds__(team_threads(shape)) normalize(const NormalizeArgument n) {
    begin_kernel();
    const RowArgument& a = n.row;
    const Team<shape> team;
    if (team.number >= a.rows.count) return;  // the whole team, which is a warp or the block
    Row<T, shape, rounds> row(a, team);
    typename Row<T, shape, rounds>::Values x{};
    const T share = T(1) / static_cast<T>(a.elements.count);
    T mean = T(0), inverse = T(0);

    const auto mean_of = [&](const auto& term) {
        return team.all(row.sum(term), shared_memory(), Plus{}) * share;
    };
    const auto normalized = [&](const Place& place) {
        return row.keeps() ? row.kept(place) : (x(place) - mean) * inverse;
    };
    const auto primal = [&](std::int64_t lane, bool write) {
        x = row.read(a.x.lane(lane, false));
        mean = n.center ? mean_of(x) : T(0);
        const T variance = mean_of([&](const Place& place) {
            const T left = x(place) - mean;
            return left * left;
        });
        inverse = T(1) / std::sqrt(variance + static_cast<T>(n.epsilon));
        row.each([&](const Place& place) { row.keep(place, (x(place) - mean) * inverse); });
        if (write) row.write(a.out.lane(lane, false), normalized);
    };
    const auto tangent = [&](std::int64_t lane) {
        char *from = a.x.lane(lane, true), *out = a.out.lane(lane, false);
        if (!from) return row.write(out, [](const Place&) { return T(0); });
        const auto dx = row.read(from);
        const T moved = n.center ? mean_of(dx) : T(0);
        const T slope = mean_of([&](const Place& place) { return normalized(place) * dx(place); });
        row.write(out,
                  [&](const Place& place) { return fused(-normalized(place), slope, dx(place) - moved) * inverse; });
    };
    for_lanes(a, primal, tangent);
}

}  // namespace tqs::cuda
