// How the scale and zero point of one group are chosen. One implementation for every ISA, compiled with floating-point
// contraction off, every sum in float64 in index order: the same weights give the same bytes on every machine.
//
// Codes for a scale s and zero z (float64, r = 1 / s rounded once, rint to nearest even):
//   u = clamp(rint(w r), -z, 2^b - 1 - z) + z,   z = 2^(b-1) when symmetric
//   error = sum (w - s (u - z))^2
// A scale is always rounded to float32 and then bfloat16 before codes are computed. One that rounds to zero becomes the
// smallest subnormal; one with |s| max(z, 2^b - 1 - z) > FLT_MAX is cut to the largest bfloat16 that keeps values
// finite.
//
// minmax   symmetric: s = extreme / -2^(b-1), extreme = the first w of largest magnitude.
//          asymmetric: [low, high] = the range of w widened to hold 0, s = (high - low) / (2^b - 1), z = rint(-low / s)
//          clamped to the codes.
// mse      32 candidates, the first of them minmax, from fixed grids of ratios: symmetric, the minmax scale times 16
//          ratios with both signs (ratios above 1 give up the extra negative code for reach on the other side);
//          asymmetric, the ends of the range shrunk together (16), only the high one (8), only the low one (8).
//          Each is refined by one least-squares step with its codes held, s' = sum w q / sum q^2, q = u - z, kept if
//          the error falls; the best (the first among equals) is then refined until no step helps, at most 8 times.
//          Never worse than minmax.
#pragma once

#include <cstdint>

namespace tqs {

enum class Search : int { minmax = 0, mse = 1 };

struct GroupScale {
    std::uint16_t scale;  // bfloat16
    std::uint8_t zero;    // 2^(b-1) when symmetric
};

// weights[count], finite, count >= 1.
GroupScale search_group(const float* weights, std::int64_t count, int bits, bool symmetric, Search search);

// codes[count] of the group under `chosen`.
void encode_group(const float* weights, std::int64_t count, int bits, GroupScale chosen, std::uint8_t* codes);

}  // namespace tqs
