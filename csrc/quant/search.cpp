#include "quant/search.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/half.h"
#include "quant/format.h"

namespace tqs {
namespace {

constexpr int kCandidates = 32;
constexpr int kRatios = 16;
constexpr int kFinalSteps = 8;

// Ratios to the minmax scale in 64ths (exact in binary), one row per format. The rows reach from "the extreme fits the
// positive side" (2^(b-1) / (2^(b-1) - 1)) down to where clipping stops paying: the fewer the codes, the lower. Steps
// may be coarse because least squares moves within one.
constexpr int kSymmetricRatios[4][kRatios] = {
    {64, 128, 112, 98, 86, 76, 70, 58, 52, 46, 40, 34, 28, 23, 18, 13},
    {64, 86, 81, 76, 72, 68, 60, 56, 52, 48, 44, 40, 35, 30, 25, 20},
    {64, 74, 71, 68, 66, 62, 60, 58, 55, 52, 49, 46, 42, 38, 33, 28},
    {64, 65, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 52, 50, 48, 46},
};
constexpr int kRangeRatios[4][kRatios] = {
    {64, 61, 58, 55, 52, 49, 46, 43, 40, 37, 34, 31, 27, 23, 19, 15},
    {64, 62, 60, 58, 56, 53, 50, 47, 44, 41, 38, 35, 32, 28, 24, 20},
    {64, 63, 62, 61, 60, 58, 56, 54, 52, 50, 47, 44, 41, 38, 34, 30},
    {64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 48},
};

// Adding and subtracting 1.5 * 2^52 rounds |x| < 2^51 to an integer, nearest even: the only spacing left is 1. Unlike
// std::rint it is an instruction pair on the x86-64 baseline, so the loop over candidates stays in registers.
constexpr double kRound = 0x1.8p52;

double round_even(double x) {
    return (x + kRound) - kRound;
}

double clamp(double x, double low, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

struct Candidate {
    std::uint16_t scale;
    int zero;
};

struct Measured {
    double error;    // sum (w - s q)^2
    double product;  // sum w q
    double square;   // sum q^2
};

// The bfloat16 used for an ideal scale; `reach` is the largest |u - z|.
std::uint16_t storable(double ideal, int reach) {
    const double limit = static_cast<double>(FLT_MAX) / reach;
    const auto cut = static_cast<float>(clamp(ideal, -limit, limit));
    std::uint16_t bits = float_to_bfloat16(cut);
    if ((bits & 0x7FFFu) == 0) return static_cast<std::uint16_t>(bits | 1u);
    // Rounding up may have passed the limit; one step toward zero is then within it.
    if (std::fabs(static_cast<double>(bfloat16_to_float(bits))) * reach > static_cast<double>(FLT_MAX)) --bits;
    return bits;
}

int reach_of(int zero, int bits) {
    return std::max(zero, (1 << bits) - 1 - zero);
}

Candidate from_range(double low, double high, int bits) {
    const int most = (1 << bits) - 1;
    const double ideal = (high - low) / most;
    const double scale = bfloat16_to_float(storable(ideal, most));
    const int zero = static_cast<int>(clamp(round_even(clamp(-low / scale, 0.0, most)), 0.0, most));
    return {storable(ideal, reach_of(zero, bits)), zero};
}

// Measures a block of candidates side by side: the lanes are the candidates, so each sum keeps its index order.
constexpr int kLanes = 8;

void measure(const float* weights, std::int64_t count, int bits, const Candidate* candidates, Measured* measured) {
    double scale[kLanes], inverse[kLanes], low[kLanes], high[kLanes];
    double error[kLanes] = {}, product[kLanes] = {}, square[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
        scale[lane] = bfloat16_to_float(candidates[lane].scale);
        inverse[lane] = 1.0 / scale[lane];
        low[lane] = -candidates[lane].zero;
        high[lane] = (1 << bits) - 1 - candidates[lane].zero;
    }
    for (std::int64_t k = 0; k < count; ++k) {
        const double weight = weights[k];
        for (int lane = 0; lane < kLanes; ++lane) {
            const double q = round_even(clamp(weight * inverse[lane], low[lane], high[lane]));
            const double residual = weight - scale[lane] * q;
            error[lane] += residual * residual;
            product[lane] += weight * q;
            square[lane] += q * q;
        }
    }
    for (int lane = 0; lane < kLanes; ++lane) measured[lane] = {error[lane], product[lane], square[lane]};
}

// The least-squares scale for the codes that gave `measured`; the candidate itself when there is none.
Candidate refined(Candidate candidate, const Measured& measured, int bits) {
    if (measured.product == 0.0 || measured.square == 0.0) return candidate;
    return {storable(measured.product / measured.square, reach_of(candidate.zero, bits)), candidate.zero};
}

Candidate best_of(const float* weights, std::int64_t count, int bits, const Candidate* candidates) {
    Candidate best = candidates[0];
    Measured least{};
    for (int block = 0; block < kCandidates; block += kLanes) {
        Candidate steps[kLanes];
        Measured before[kLanes], after[kLanes];
        measure(weights, count, bits, candidates + block, before);
        for (int lane = 0; lane < kLanes; ++lane) steps[lane] = refined(candidates[block + lane], before[lane], bits);
        measure(weights, count, bits, steps, after);
        for (int lane = 0; lane < kLanes; ++lane) {
            const bool fell = after[lane].error < before[lane].error;
            const Measured& found = fell ? after[lane] : before[lane];
            if (block + lane == 0 || found.error < least.error) {
                best = fell ? steps[lane] : candidates[block + lane];
                least = found;
            }
        }
    }
    for (int step = 0; step < kFinalSteps; ++step) {
        const Candidate next = refined(best, least, bits);
        if (next.scale == best.scale) break;
        Candidate lanes[kLanes];
        Measured found[kLanes];
        std::fill(lanes, lanes + kLanes, next);
        measure(weights, count, bits, lanes, found);
        if (!(found[0].error < least.error)) break;
        best = next;
        least = found[0];
    }
    return best;
}

}  // namespace

GroupScale search_group(const float* weights, std::int64_t count, int bits, bool symmetric, Search search) {
    double extreme = 0.0, least = 0.0, most = 0.0;
    for (std::int64_t k = 0; k < count; ++k) {
        const double weight = weights[k];
        if (std::fabs(weight) > std::fabs(extreme)) extreme = weight;
        least = weight < least ? weight : least;
        most = weight > most ? weight : most;
    }
    const int half = 1 << (bits - 1);
    if (extreme == 0.0) return {float_to_bfloat16(1.0f), static_cast<std::uint8_t>(symmetric ? half : 0)};

    Candidate candidates[kCandidates];
    const int row = format_index(bits);
    if (symmetric) {
        const double ideal = extreme / -half;
        for (int i = 0; i < kRatios; ++i) {
            const double scaled = ideal * (kSymmetricRatios[row][i] / 64.0);
            candidates[i] = {storable(scaled, half), half};
            candidates[kRatios + i] = {storable(-scaled, half), half};
        }
    } else {
        for (int i = 0; i < kRatios; ++i) {
            const double ratio = kRangeRatios[row][i] / 64.0;
            candidates[i] = from_range(least * ratio, most * ratio, bits);
        }
        for (int i = 0; i < kRatios / 2; ++i) {
            const double ratio = kRangeRatios[row][2 * i + 1] / 64.0;
            candidates[kRatios + i] = from_range(least, most * ratio, bits);
            candidates[kRatios + kRatios / 2 + i] = from_range(least * ratio, most, bits);
        }
    }
    const Candidate chosen = search == Search::minmax ? candidates[0] : best_of(weights, count, bits, candidates);
    return {chosen.scale, static_cast<std::uint8_t>(chosen.zero)};
}

void encode_group(const float* weights, std::int64_t count, int bits, GroupScale chosen, std::uint8_t* codes) {
    const double inverse = 1.0 / bfloat16_to_float(chosen.scale);
    const double low = -static_cast<double>(chosen.zero);
    const double high = (1 << bits) - 1 - chosen.zero;
    for (std::int64_t k = 0; k < count; ++k) {
        const double q = round_even(clamp(weights[k] * inverse, low, high));
        codes[k] = static_cast<std::uint8_t>(static_cast<int>(q) + chosen.zero);
    }
}

}  // namespace tqs
