// Counter-based random numbers: element i of stream s under a seed is a pure function of (seed, s, i), so any slice can
// be drawn anywhere, in any order, on any backend, with the same result.
//
// Generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11).
//   key     = (seed low, seed high)
//   counter = (block low, block high, stream low, stream high), block = i / 4; element i is word i % 4 of its block.
// uniform = ((word >> 9) + 1/2) * 2^-23: exact in float32, never 0 and never 1.
// normal  = inverse normal CDF at p = (word + 1/2) * 2^-32, by rational approximation (Wichura, AS 241, PPND16), in
//   float64 with + - * / and square root only (the logarithm is a series of those), rounded once to float32. One word
//   per normal keeps element i addressable, which Box-Muller's pairs and rejection methods do not. |normal| < 6.4.
#pragma once

#include <cstdint>

#include "core/normal.h"

namespace tqs {

// Elements [offset, offset + count) of the stream into out[count].
void fill_uniform(float* out, std::int64_t count, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset);
void fill_normal(float* out, std::int64_t count, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset);

}  // namespace tqs
