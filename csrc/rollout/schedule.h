// How a rollout is cut into tiles and spread over threads.
#pragma once

#include <cstdint>
#include <functional>

#include "rollout/tile_run.h"

namespace tqs {

// Called between steps, from the thread that asked for the rollout; true ends it with Interrupted.
using Interrupt = std::function<bool()>;

struct Interrupted {};

struct TileSize {
    std::int64_t lanes, samples;  // at most this many
};

// Tiles stay near the size of a core's own cache, with enough rows for a matrix product to run at speed, unless
// `memory_limit` bytes (0: none) for all threads together ask for less. Tangents of a sample are kept together, as
// each tile computes the primal again. Throws ArgumentError where not even one lane of one sample fits.
TileSize choose_tile(const Stages& stages, std::int64_t lanes, std::int64_t samples, bool tangent, int threads,
                     std::int64_t memory_limit);

// Runs body(first lane, lanes, first sample, samples, stop) for every tile, in any order, on `threads` threads (0:
// default). A body calls stop() once a step; it throws Interrupted once `interrupt` has said so.
using TileBody =
    std::function<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t, const std::function<void()>&)>;
void for_each_tile(TileSize size, std::int64_t lanes, std::int64_t samples, int threads, const Interrupt& interrupt,
                   const TileBody& body);

}  // namespace tqs
