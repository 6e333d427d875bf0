// The scale search of quant/search.h for a vector ISA: kLanes groups side by side, one per lane, so that every sum
// keeps its index order and every step is the scalar one. `W` is Wide<double> of an ISA folder, and vectors of other
// types with as many elements.
//
// Sums are fused multiply-adds: every product in them is exact, so that they round as the separate operations of the
// scalar text do. A scale has 8 significant bits, q at most 8, a weight w 24. The residual w - s q has at most 26, and
// its square 52: q is zero or has the sign of w / s, so |w - s q| <= |w|; and |w| < 2^18 s, so that the last place of s
// is at least a quarter of that of w. (A candidate has |w| <= 340 s, the most codes over the least ratio; a
// least-squares step at most halves s, since |w / q| >= s / 2 for every q but zero; there are nine. Where s ends up
// subnormal, with a last place of 2^-133, it began below 2^-117, and |w| < 2^-108.)
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstdint>

#include "backend/kernel_table.h"

namespace tqs::panel {

template <class W>
static inline typename W::Vector clamp(typename W::Vector x, typename W::Vector low, typename W::Vector high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

template <class W>
static inline typename W::Vector magnitude(typename W::Vector x) {
    return x < 0.0 ? -x : x;
}

// Weights of kLanes groups, kTile of each at a time, as float64 with the groups in the lanes. A shorter group is filled
// up with zeros, whose code is the zero point: they add nothing to any sum.
template <class W>
class Tile {
  public:
    static constexpr std::int64_t kTile = 128;

    // Lanes at and beyond `groups` are empty.
    Tile(const float* const* weights, const std::int64_t* counts, std::int64_t groups) {
        for (std::int64_t lane = 0; lane < W::kLanes; ++lane) {
            weights_[lane] = lane < groups ? weights[lane] : nullptr;
            counts_[lane] = lane < groups ? counts[lane] : 0;
            longest_ = std::max(longest_, counts_[lane]);
        }
    }

    std::int64_t longest() const { return longest_; }

    // Weights k of all groups, and those after it up to the next multiple of kTile; [ ][kLanes].
    const double* at(std::int64_t k) {
        const std::int64_t first = k / kTile * kTile;
        if (first != first_) load(first);
        return values_ + (k - first) * W::kLanes;
    }

  private:
    void load(std::int64_t first) {
        first_ = first;
        const std::int64_t end = std::min(kTile, longest_ - first);
        for (std::int64_t lane = 0; lane < W::kLanes; ++lane) {
            const std::int64_t count = std::clamp<std::int64_t>(counts_[lane] - first, 0, end);
            for (std::int64_t k = 0; k < count; ++k) values_[k * W::kLanes + lane] = weights_[lane][first + k];
            for (std::int64_t k = count; k < end; ++k) values_[k * W::kLanes + lane] = 0.0;
        }
    }

    alignas(64) double values_[kTile * W::kLanes];
    const float* weights_[W::kLanes];
    std::int64_t counts_[W::kLanes];
    std::int64_t longest_ = 0;
    std::int64_t first_ = -1;
};

// A scale and a zero point for each group; codes less the zero point, q, lie in [low, high] = [-z, 2^b - 1 - z].
template <class W>
struct Candidate {
    typename W::Vector scale, inverse, low, high;
};

template <class W>
struct Measured {
    typename W::Vector error{};    // sum (w - s q)^2
    typename W::Vector product{};  // sum w q
    typename W::Vector square{};   // sum q^2
};

// The bfloat16 used for an ideal scale; `reach` is the largest |q|.
template <class W>
static inline typename W::Vector storable(typename W::Vector ideal, typename W::Vector reach) {
    using Singles = typename W::Singles;
    using Words = typename W::Words;
    using Vector = typename W::Vector;
    constexpr double most = FLT_MAX;
    const Vector limit = most / reach;
    Words bits = reinterpret_cast<Words>(__builtin_convertvector(clamp<W>(ideal, -limit, limit), Singles));
    bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
    bits = (bits & 0x7FFF0000u) == 0u ? bits | 0x10000u : bits;
    // Rounding up may have passed the limit; one step toward zero is then within it.
    const Vector rounded = __builtin_convertvector(reinterpret_cast<Singles>(bits), Vector);
    const Vector lower = __builtin_convertvector(reinterpret_cast<Singles>(bits - 0x10000u), Vector);
    return magnitude<W>(rounded) * reach > most ? lower : rounded;
}

template <class W>
static inline Candidate<W> candidate_at(typename W::Vector ideal, typename W::Vector low, typename W::Vector high) {
    const typename W::Vector scale = storable<W>(ideal, -low > high ? -low : high);
    return {scale, 1.0 / scale, low, high};
}

template <class W>
static inline Candidate<W> from_range(typename W::Vector least, typename W::Vector most, double codes) {
    using Vector = typename W::Vector;
    const Vector none = W::broadcast(0.0), last = W::broadcast(codes);
    const Vector ideal = (most - least) / last;
    const Vector zero = W::round(clamp<W>(-least / storable<W>(ideal, last), none, last));
    return candidate_at<W>(ideal, -zero, last - zero);
}

template <class W>
static inline Candidate<W> select(typename W::Bits mask, const Candidate<W>& a, const Candidate<W>& b) {
    return {mask ? a.scale : b.scale, mask ? a.inverse : b.inverse, mask ? a.low : b.low, mask ? a.high : b.high};
}

template <class W>
static inline Measured<W> select(typename W::Bits mask, const Measured<W>& a, const Measured<W>& b) {
    return {mask ? a.error : b.error, mask ? a.product : b.product, mask ? a.square : b.square};
}

// The least-squares scale for the codes that gave `measured`; the candidate itself where there is none.
template <class W>
static inline Candidate<W> refined(const Candidate<W>& candidate, const Measured<W>& measured) {
    const typename W::Bits stuck = (measured.product == 0.0) | (measured.square == 0.0);
    return select<W>(stuck, candidate,
                     candidate_at<W>(measured.product / measured.square, candidate.low, candidate.high));
}

// Adds weights[count][kLanes] to the sums of `n` candidates in one pass over the weights: one alone would wait for its
// own additions. Without `codes`, the errors only.
template <class W, int n, bool codes>
static void add_weights(const double* weights, std::int64_t count, const Candidate<W>* candidates,
                        Measured<W>* measured) {
    using Vector = typename W::Vector;
    Vector scale[n], inverse[n], low[n], high[n], error[n], product[n], square[n];
    for (int i = 0; i < n; ++i) {
        scale[i] = -candidates[i].scale;
        inverse[i] = candidates[i].inverse;
        low[i] = candidates[i].low;
        high[i] = candidates[i].high;
        error[i] = measured[i].error;
        product[i] = measured[i].product;
        square[i] = measured[i].square;
    }
    for (std::int64_t k = 0; k < count; ++k) {
        const Vector weight = W::load(weights + k * W::kLanes);
        for (int i = 0; i < n; ++i) {
            const Vector q = W::round(clamp<W>(weight * inverse[i], low[i], high[i]));
            const Vector residual = W::multiply_add(scale[i], q, weight);
            error[i] = W::multiply_add(residual, residual, error[i]);
            if constexpr (codes) {
                product[i] = W::multiply_add(weight, q, product[i]);
                square[i] = W::multiply_add(q, q, square[i]);
            }
        }
    }
    for (int i = 0; i < n; ++i) {
        measured[i].error = error[i];
        measured[i].product = product[i];
        measured[i].square = square[i];
    }
}

// Measures `count` candidates, one or a multiple of four, over whole groups: four have their operands in registers.
template <class W, int count, bool codes>
static void measure(Tile<W>& tile, const Candidate<W>* candidates, Measured<W>* measured) {
    constexpr int n = std::min(count, 4);
    std::fill(measured, measured + count, Measured<W>{});
    for (std::int64_t first = 0; first < tile.longest(); first += Tile<W>::kTile) {
        const double* weights = tile.at(first);
        const std::int64_t some = std::min(Tile<W>::kTile, tile.longest() - first);
        for (int i = 0; i < count; i += n) add_weights<W, n, codes>(weights, some, candidates + i, measured + i);
    }
}

// The best of the candidates, each as it is or after a least-squares step, refined until no step helps.
template <class W>
static Candidate<W> best_of(Tile<W>& tile, const Candidate<W>* candidates) {
    constexpr int kFinalSteps = 8;
    Measured<W> before[kScaleCandidates], after[kScaleCandidates], least, found;
    Candidate<W> steps[kScaleCandidates];
    measure<W, kScaleCandidates, true>(tile, candidates, before);
    for (int i = 0; i < kScaleCandidates; ++i) steps[i] = refined<W>(candidates[i], before[i]);
    measure<W, kScaleCandidates, false>(tile, steps, after);

    Candidate<W> best;
    typename W::Vector error;
    for (int i = 0; i < kScaleCandidates; ++i) {
        const typename W::Bits fell = after[i].error < before[i].error;
        const typename W::Vector lower = fell ? after[i].error : before[i].error;
        const Candidate<W> better = select<W>(fell, steps[i], candidates[i]);
        best = i == 0 ? better : select<W>(lower < error, better, best);
        error = i == 0 ? lower : (lower < error ? lower : error);
    }
    measure<W, 1, true>(tile, &best, &least);
    for (int step = 0; step < kFinalSteps; ++step) {
        const Candidate<W> next = refined<W>(best, least);
        measure<W, 1, true>(tile, &next, &found);
        const typename W::Bits fell = found.error < least.error;  // never once it did not
        if (!W::any(fell)) break;
        best = select<W>(fell, next, best);
        least = select<W>(fell, found, least);
    }
    return best;
}

// `extreme` where not `either`; there, whichever of it and its negative comes first.
template <class W>
static typename W::Vector first_of_two(Tile<W>& tile, typename W::Bits either, typename W::Vector extreme) {
    for (std::int64_t k = tile.longest() - 1; k >= 0; --k) {
        const typename W::Vector weight = W::load(tile.at(k));
        extreme = (either & (magnitude<W>(weight) == magnitude<W>(extreme))) ? weight : extreme;
    }
    return extreme;
}

// Scales for the groups of `tile`, each a bfloat16.
template <class W>
static Candidate<W> search_scales(Tile<W>& tile, const QuantizeTask& task, int bits) {
    using Vector = typename W::Vector;
    Vector least{}, most{};
    for (std::int64_t k = 0; k < tile.longest(); ++k) {
        const Vector weight = W::load(tile.at(k));
        least = weight < least ? weight : least;
        most = weight > most ? weight : most;
    }
    Vector extreme = most > -least ? most : least;
    const typename W::Bits both = (most == -least) & (most != 0.0);
    if (W::any(both)) extreme = first_of_two<W>(tile, both, extreme);
    const bool symmetric = task.zeros == nullptr;
    const double codes = (1 << bits) - 1, half = 1 << (bits - 1);
    const int count = task.search ? kScaleCandidates : 1;
    Candidate<W> candidates[kScaleCandidates];
    for (int i = 0; i < count; ++i) {
        candidates[i] = symmetric ? candidate_at<W>(extreme / -half * task.ratios->least[i], W::broadcast(-half),
                                                    W::broadcast(codes - half))
                                  : from_range<W>(least * task.ratios->least[i], most * task.ratios->most[i], codes);
    }
    const Candidate<W> chosen = task.search ? best_of<W>(tile, candidates) : candidates[0];
    const Vector one = W::broadcast(1.0), zero = W::broadcast(symmetric ? half : 0.0);
    return select<W>(extreme == 0.0, Candidate<W>{one, one, -zero, codes - zero}, chosen);
}

}  // namespace tqs::panel
