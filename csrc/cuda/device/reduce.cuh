// Reductions over any set of axes, a team per output: members take terms member, member + members, ... in index order
// and then meet. Sums are those of ChunkedSum; products run in float64.
//
// A sum is linear: all lanes alike. Of a maximum the tangents are those of the element chosen, of a product
// d(p x) = dp x + p dx, which needs no division; of what counts or compares they are zero.
#pragma once

#include <type_traits>

#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device/team.cuh"

namespace tqs::cuda {

struct ReduceArgument {
    Loops<2> kept;  // of x, out
    Loops<1> reduced;
    Lanes x, out;
    Reduction reduction;
    bool tangent;
    std::int64_t lanes;
};

// A product and its tangent.
struct Running {
    double product, tangent;
};
struct Times {
    __device__ Running operator()(const Running& a, const Running& b) const {
        return {a.product * b.product, fused(a.tangent, b.product, a.product * b.tangent)};
    }
};

template <class T, Shape shape>
struct Reducer {
    const ReduceArgument& a;
    const Team<shape>& team;
    std::int64_t from;  // of the output's terms

    __device__ T term(const char* x, std::uint32_t i) const {
        return load<T>(x, a.x.precision, from + a.reduced.offset(0, i));
    }
    // Calls body(i) for this member's terms.
    template <class Body>
    __device__ void for_terms(const Body& body) const {
        for (std::uint32_t i = static_cast<std::uint32_t>(team.member); i < a.reduced.count;
             i += static_cast<std::uint32_t>(Team<shape>::kMembers)) {
            body(i);
        }
    }

    __device__ T sum(const char* x) const {
        ChunkedSum<T> sum;
        for_terms([&](std::uint32_t i) { sum.add(term(x, i)); });
        const T total = team.all(sum.value(), shared_memory(), Plus{});
        return a.reduction == Reduction::mean ? total / static_cast<T>(a.reduced.count) : total;
    }
    __device__ Choice<T> choose(const char* x) const {
        const bool smallest = a.reduction == Reduction::minimum || a.reduction == Reduction::argmin;
        const First<T> first{smallest ? T(-1) : T(1)};
        Choice<T> best{T(0), -1};
        for_terms([&](std::uint32_t i) { best = first(best, Choice<T>{term(x, i), static_cast<std::int32_t>(i)}); });
        return team.all(best, shared_memory(), first);
    }
    // Whether some term is 0 (or, not `zero`, is not).
    __device__ bool any(const char* x, bool zero) const {
        int found = 0;
        for_terms([&](std::uint32_t i) { found |= (term(x, i) == T(0)) == zero ? 1 : 0; });
        return team.all(found, shared_memory(), [](int p, int q) { return p | q; }) != 0;
    }
    // `dx` null: 0.
    __device__ Running product(const char* x, const char* dx) const {
        Running running{1.0, 0.0};
        for_terms([&](std::uint32_t i) {
            const Running next{term(x, i), dx ? term(dx, i) : 0.0};
            running = Times{}(running, next);
        });
        return team.all(running, shared_memory(), Times{});
    }
};

// The entries of `Reduction` that one kernel computes.
enum class Reduced { sums, choices, products, truths };

template <class T, Shape shape, Reduced kind>
__global__ void __launch_bounds__(team_threads(shape)) reduce(const ReduceArgument a) {
    begin_kernel();
    const Team<shape> team;
    const bool live = team.number < a.kept.count;
    if (shape != Shape::columns && !live) return;  // the whole team, which is a warp or the block
    const std::uint32_t output = live ? team.number : 0;
    const Reducer<T, shape> reducer{a, team, a.kept.offset(0, output)};
    const std::int64_t to = a.kept.offset(1, output);
    const auto put = [&](std::int64_t lane, auto value) {
        if (live && team.member == 0) store(a.out.lane(lane, false), a.out.precision, to, value);
    };
    for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) {
        const bool moved = a.tangent && lane > 0;
        const char* x = a.x.lane(moved ? 0 : lane, false);
        const char* dx = moved ? a.x.lane(lane, true) : nullptr;
        if (moved && (!dx || kind == Reduced::truths)) {
            put(lane, T(0));
        } else if constexpr (kind == Reduced::sums) {
            put(lane, reducer.sum(moved ? dx : x));
        } else if constexpr (kind == Reduced::products) {
            const Running result = reducer.product(x, dx);
            put(lane, moved ? result.tangent : result.product);
        } else if constexpr (kind == Reduced::choices) {
            const bool position = a.reduction == Reduction::argmax || a.reduction == Reduction::argmin;
            const Choice<T> choice = reducer.choose(x);
            if (!a.tangent) {
                put(lane, position ? static_cast<T>(choice.position) : choice.value);
                continue;
            }
            // All lanes at once, shared out among the members: this loop runs once (grid y is 1).
            const auto chosen = static_cast<std::uint32_t>(choice.position);
            for (std::int64_t other = team.member; live && other < a.lanes; other += Team<shape>::kMembers) {
                const char* from = position && other > 0 ? nullptr : a.x.lane(other, true);
                const T value = position && other == 0 ? static_cast<T>(chosen)
                                : from                 ? reducer.term(from, chosen)
                                                       : T(0);
                store(a.out.lane(other, false), a.out.precision, to, value);
            }
            return;
        } else {
            const bool all = a.reduction == Reduction::all;
            put(lane, reducer.any(x, all) != all ? T(1) : T(0));
        }
    }
}

}  // namespace tqs::cuda
