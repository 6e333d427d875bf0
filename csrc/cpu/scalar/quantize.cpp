#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "cpu/scalar/kernels.h"
#include "quant/codes.h"

namespace tqs::scalar {
namespace {

// Adding and subtracting 1.5 * 2^52 rounds |x| < 2^51 to an integer, nearest even: the only spacing left is 1. Unlike
// std::rint it is an instruction pair on the x86-64 baseline.
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

// One group: its weights, and what to choose for it.
struct Group {
    const float* weights;
    std::int64_t count;
    int bits;
    bool symmetric;
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
    const int zero = static_cast<int>(round_even(clamp(-low / scale, 0.0, most)));
    return {storable(ideal, reach_of(zero, bits)), zero};
}

Measured measure(const Group& group, Candidate candidate) {
    const double scale = bfloat16_to_float(candidate.scale);
    const double inverse = 1.0 / scale;
    const double low = -candidate.zero, high = (1 << group.bits) - 1 - candidate.zero;
    Measured sums{};
    for (std::int64_t k = 0; k < group.count; ++k) {
        const double weight = group.weights[k];
        const double q = round_even(clamp(weight * inverse, low, high));
        const double residual = weight - scale * q;
        sums.error += residual * residual;
        sums.product += weight * q;
        sums.square += q * q;
    }
    return sums;
}

// The least-squares scale for the codes that gave `measured`; the candidate itself when there is none.
Candidate refined(Candidate candidate, const Measured& measured, int bits) {
    if (measured.product == 0.0 || measured.square == 0.0) return candidate;
    return {storable(measured.product / measured.square, reach_of(candidate.zero, bits)), candidate.zero};
}

Candidate best_of(const Group& group, const Candidate* candidates) {
    constexpr int kFinalSteps = 8;
    Candidate best{};
    Measured least{};
    for (int i = 0; i < kScaleCandidates; ++i) {
        const Measured before = measure(group, candidates[i]);
        const Candidate step = refined(candidates[i], before, group.bits);
        const Measured after = measure(group, step);
        const bool fell = after.error < before.error;
        const Measured& found = fell ? after : before;
        if (i == 0 || found.error < least.error) {
            best = fell ? step : candidates[i];
            least = found;
        }
    }
    for (int step = 0; step < kFinalSteps; ++step) {
        const Candidate next = refined(best, least, group.bits);
        if (next.scale == best.scale) break;
        const Measured found = measure(group, next);
        if (!(found.error < least.error)) break;
        best = next;
        least = found;
    }
    return best;
}

Candidate search(const Group& group, const ScaleRatios& ratios, bool all) {
    double extreme = 0.0, least = 0.0, most = 0.0;
    for (std::int64_t k = 0; k < group.count; ++k) {
        const double weight = group.weights[k];
        if (std::fabs(weight) > std::fabs(extreme)) extreme = weight;
        least = weight < least ? weight : least;
        most = weight > most ? weight : most;
    }
    const int half = 1 << (group.bits - 1);
    if (extreme == 0.0) return {float_to_bfloat16(1.0f), group.symmetric ? half : 0};

    const auto candidate = [&](int i) -> Candidate {
        if (group.symmetric) return {storable(extreme / -half * ratios.least[i], half), half};
        return from_range(least * ratios.least[i], most * ratios.most[i], group.bits);
    };
    if (!all) return candidate(0);
    Candidate candidates[kScaleCandidates];
    for (int i = 0; i < kScaleCandidates; ++i) candidates[i] = candidate(i);
    return best_of(group, candidates);
}

// Writes the codes of a group as codes first ... of `row`, whose bits from there on are zero.
void encode(const Group& group, Candidate chosen, std::uint8_t* row, std::int64_t first) {
    const double inverse = 1.0 / bfloat16_to_float(chosen.scale);
    const double low = -chosen.zero, high = (1 << group.bits) - 1 - chosen.zero;
    for (std::int64_t k = 0; k < group.count; ++k) {
        const double q = round_even(clamp(group.weights[k] * inverse, low, high));
        write_code(row, first + k, group.bits, static_cast<int>(q) + chosen.zero);
    }
}

template <int bits>
void quantize(const QuantizeTask& task, std::int64_t begin, std::int64_t end) {
    const std::int64_t width = task.group_size == 0 ? task.columns : task.group_size;
    const std::int64_t groups = packed_groups(task.columns, task.group_size);
    const std::int64_t row_bytes = packed_row_bytes(task.columns, bits);
    const bool symmetric = task.zeros == nullptr;
    for (std::int64_t n = begin; n < end; ++n) {
        std::uint8_t* row = task.codes + n * row_bytes;
        std::memset(row, 0, static_cast<std::size_t>(row_bytes));
        for (std::int64_t i = 0; i < groups; ++i) {
            const std::int64_t first = i * width;
            const Group group{task.weights + n * task.stride + first, std::min(width, task.columns - first), bits,
                              symmetric};
            const Candidate chosen = search(group, *task.ratios, task.search);
            encode(group, chosen, row, first);
            task.scales[n * groups + i] = chosen.scale;
            if (!symmetric) task.zeros[n * groups + i] = static_cast<std::uint8_t>(chosen.zero);
        }
    }
}

}  // namespace

constinit const QuantizeKernel kQuantize[kFormats] = {quantize<2>, quantize<3>, quantize<4>, quantize<8>};

}  // namespace tqs::scalar
