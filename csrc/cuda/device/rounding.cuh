// Weights to the values that codes of a few bits stand for: the text of quant/search.h, with the bits of the
// processor's kernels, so contraction is off.
#pragma once

#include <cfloat>

#include "backend/device.h"
#include "cuda/device/elements.cuh"

namespace tqs::cuda {

inline constexpr int kRoundThreads = 128;

struct RoundArgument {
    RoundTask task;
    ScaleRatios ratios;
    std::int64_t groups, width;  // of a row; columns of a group
};

struct ScaleOfGroup {
    std::uint32_t scale;  // bfloat16
    int zero;
};

struct MeasuredScale {
    double error;    // sum (w - s q)^2
    double product;  // sum w q
    double square;   // sum q^2
};

// The weights of one group; every lane of a warp has the same.
struct WeightGroup {
    const float* weights;
    std::int64_t count;
    int bits;

    __device__ int most() const { return (1 << bits) - 1; }
};

// Rounds |x| < 2^51 to an integer, nearest even: the only spacing left is 1.
__device__ inline double round_even(double x) {
    return (x + 0x1.8p52) - 0x1.8p52;
}

__device__ inline double clamp(double x, double low, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

__device__ inline int reach_of(int zero, int most) {
    return zero > most - zero ? zero : most - zero;
}

// The bfloat16 used for an ideal scale; `reach` is the largest |q|.
__device__ inline std::uint32_t storable(double ideal, int reach) {
    const double limit = static_cast<double>(FLT_MAX) / reach;
    Bfloat16 stored;
    store(&stored, static_cast<float>(clamp(ideal, -limit, limit)));
    const std::uint32_t bits = stored.bits;
    if ((bits & 0x7FFFu) == 0) return bits | 1u;
    const double size = static_cast<double>(bfloat16_to_float(bits & 0x7FFFu));
    return size * reach > static_cast<double>(FLT_MAX) ? bits - 1 : bits;
}

__device__ inline double code_of(const WeightGroup& group, std::int64_t k, double inverse, int zero) {
    const double low = -zero, high = group.most() - zero;
    return round_even(clamp(static_cast<double>(group.weights[k]) * inverse, low, high));
}

// Every product is exact, so that it may be fused with the sum or not: a scale has 8 bits, q has 8, a weight 24, and a
// residual, a multiple of the weight's last bit and no larger than the weight (or half a scale of no more bits), 25.
__device__ inline MeasuredScale measure(const WeightGroup& group, ScaleOfGroup candidate) {
    const double scale = static_cast<double>(bfloat16_to_float(candidate.scale)), inverse = 1.0 / scale;
    MeasuredScale sums{0.0, 0.0, 0.0};
    for (std::int64_t k = 0; k < group.count; ++k) {
        const double weight = static_cast<double>(group.weights[k]);
        const double q = code_of(group, k, inverse, candidate.zero);
        const double residual = fused(-scale, q, weight);
        sums.error = fused(residual, residual, sums.error);
        sums.product = fused(weight, q, sums.product);
        sums.square = fused(q, q, sums.square);
    }
    return sums;
}

__device__ inline ScaleOfGroup refined(ScaleOfGroup candidate, const MeasuredScale& measured, int most) {
    if (measured.product == 0.0 || measured.square == 0.0) return candidate;
    return {storable(measured.product / measured.square, reach_of(candidate.zero, most)), candidate.zero};
}

__device__ inline ScaleOfGroup from_range(double low, double high, int most) {
    const double ideal = (high - low) / most;
    const double scale = static_cast<double>(bfloat16_to_float(storable(ideal, most)));
    const int zero = static_cast<int>(round_even(clamp(-low / scale, 0.0, most)));
    return {storable(ideal, reach_of(zero, most)), zero};
}

// Lane i of a warp measures candidate i; all lanes return the best.
__device__ inline ScaleOfGroup best_of(const WeightGroup& group, ScaleOfGroup candidate, int lane) {
    constexpr int kFinalSteps = 8;
    const MeasuredScale before = measure(group, candidate);
    const ScaleOfGroup step = refined(candidate, before, group.most());
    const MeasuredScale after = measure(group, step);
    const bool fell = after.error < before.error;
    if (fell) candidate = step;
    double error = fell ? after.error : before.error;
    int from = lane;
    for (int mask = 16; mask > 0; mask /= 2) {
        const double other = shuffle_xor(error, mask);
        const int number = shuffle_xor(from, mask);
        if (other < error || (other == error && number < from)) {
            error = other;
            from = number;
        }
    }
    ScaleOfGroup best{static_cast<std::uint32_t>(shuffle_from(static_cast<int>(candidate.scale), from)),
                      shuffle_from(candidate.zero, from)};
    MeasuredScale least = measure(group, best);  // again: cheaper to write than five more exchanges
    for (int final = 0; final < kFinalSteps; ++final) {
        const ScaleOfGroup next = refined(best, least, group.most());
        if (next.scale == best.scale) break;
        const MeasuredScale found = measure(group, next);
        if (!(found.error < least.error)) break;
        best = next;
        least = found;
    }
    return best;
}

// A warp per group, a lane per candidate: every lane reads the same weight at the same time, and each of its sums is in
// order of k.
static __global__ void __launch_bounds__(kRoundThreads) round_groups(const RoundArgument a) {
    begin_kernel();
    static_assert(kScaleCandidates == 32, "a lane per candidate");
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t number = (static_cast<std::int64_t>(blockIdx.x) * kRoundThreads + threadIdx.x) / 32;
    if (number >= a.task.rows * a.groups) return;
    const std::int64_t first = number % a.groups * a.width, at = number / a.groups * a.task.columns + first;
    const std::int64_t rest = a.task.columns - first;
    const WeightGroup group{a.task.weights + at, rest < a.width ? rest : a.width, a.task.bits};

    double extreme = 0.0, least = 0.0, most = 0.0;
    for (std::int64_t k = 0; k < group.count; ++k) {
        const double weight = static_cast<double>(group.weights[k]);
        const double size = weight < 0.0 ? -weight : weight;
        if (size > (extreme < 0.0 ? -extreme : extreme)) extreme = weight;
        least = weight < least ? weight : least;
        most = weight > most ? weight : most;
    }
    const int half = 1 << (a.task.bits - 1), candidate = a.task.search ? lane : 0;
    ScaleOfGroup chosen{0x3F80u, a.task.symmetric ? half : 0};  // 1, for a group of zeros
    if (extreme != 0.0) {
        chosen = a.task.symmetric
                     ? ScaleOfGroup{storable(extreme / -half * a.ratios.least[candidate], half), half}
                     : from_range(least * a.ratios.least[candidate], most * a.ratios.most[candidate], group.most());
        if (a.task.search) chosen = best_of(group, chosen, lane);
    }
    const float scale = bfloat16_to_float(chosen.scale);
    const double inverse = 1.0 / static_cast<double>(scale);
    for (std::int64_t k = lane; k < group.count; k += 32) {
        const int q = static_cast<int>(code_of(group, k, inverse, chosen.zero));
        a.task.values[at + k] = scale * static_cast<float>(q);
    }
}

}  // namespace tqs::cuda
