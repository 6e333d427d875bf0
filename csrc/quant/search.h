// How the scale and zero point of one group are chosen. The text every `quantize` kernel follows: contraction off,
// every sum in float64 in index order, so that the same weights give the same bytes on every machine.
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

#include "backend/kernel_table.h"

namespace tqs {

enum class Search : int { minmax = 0, mse = 1 };

// The grid of candidates of a format.
const ScaleRatios& scale_ratios(int bits, bool symmetric);

}  // namespace tqs
