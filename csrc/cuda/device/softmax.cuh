// softmax and its logarithm along the last axis. With p = softmax(x): dp = p (dx - sum p dx), d log p = dx - sum p dx.
// p is kept for the tangents of all lanes, or computed again where a row is too long.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/device/rows.cuh"

namespace tqs::cuda {

struct SoftmaxArgument {
    RowArgument row;
    bool logarithm;
};

// Of numbers: where there is a NaN its exponential makes the sum NaN, and so the row.
struct Larger {
    template <class T>
    __device__ T operator()(T a, T b) const {
        return a > b ? a : b;
    }
};

template <class T, Shape shape, int rounds>
__global__ void __launch_bounds__(team_threads(shape)) softmax(const SoftmaxArgument s) {
    begin_kernel();
    const RowArgument& a = s.row;
    const Team<shape> team;
    if (team.number >= a.rows.count) return;  // the whole team, which is a warp or the block
    Row<T, shape, rounds> row(a, team);
    typename Row<T, shape, rounds>::Values x{};
    T top = T(0), total = T(0);

    const auto probability = [&](const Place& place) {
        return row.keeps() ? row.kept(place) : std::exp(x(place) - top) / total;
    };
    const auto primal = [&](std::int64_t lane, bool write) {
        x = row.read(a.x.lane(lane, false));
        top = -std::numeric_limits<T>::infinity();
        row.each([&](const Place& place) { top = Larger{}(x(place), top); });
        top = team.all(top, shared_memory(), Larger{});
        total = team.all(row.sum([&](const Place& place) {
            const T e = std::exp(x(place) - top);
            row.keep(place, e);
            return e;
        }),
                         shared_memory(), Plus{});
        if (row.keeps()) row.each([&](const Place& place) { row.keep(place, row.kept(place) / total); });
        if (!write) return;
        const T log_total = s.logarithm ? std::log(total) : T(0);
        row.write(a.out.lane(lane, false),
                  [&](const Place& place) { return s.logarithm ? (x(place) - top) - log_total : probability(place); });
    };
    const auto tangent = [&](std::int64_t lane) {
        char *from = a.x.lane(lane, true), *out = a.out.lane(lane, false);
        if (!from) return row.write(out, [](const Place&) { return T(0); });
        const auto dx = row.read(from);
        const auto moved = [&](const Place& place) {
            return probability(place) * dx(place);
        };
        const T mean = team.all(row.sum(moved), shared_memory(), Plus{});
        row.write(out, [&](const Place& place) {
            const T centred = dx(place) - mean;
            return s.logarithm ? centred : probability(place) * centred;
        });
    };
    for_lanes(a, primal, tangent);
}

}  // namespace tqs::cuda
