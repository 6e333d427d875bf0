// How a rollout is cut into tiles.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "rollout/tile_run.h"

namespace tqs {

// Lanes [lane, lane + lanes) of all initial conditions, `samples` of them at a time.
struct Piece {
    std::int64_t lane, lanes, samples;
};

struct Rollout {
    std::vector<std::vector<int>> changed;  // per lane (or tangent): the constants in which it differs, increasing
    std::vector<bool> seeded;               // per state leaf: whether tangents begin in it
    std::int64_t samples, steps;
    bool tangent;   // each tile runs the primal too
    bool together;  // all lanes of a sample in one tile
    // For what a tile takes on a device: steps of the inputs; values collected, and what of them from a piece (only
    // whether pointers are null counts); bytes of constants that a piece draws.
    std::int64_t input_steps = 0, values = 0;
    std::function<std::vector<Wanted>(const Piece&)> wanted = [](const Piece&) {
        return std::vector<Wanted>{};
    };
    std::function<std::int64_t(const Piece&)> drawn_bytes = [](const Piece&) {
        return std::int64_t{0};
    };
    std::int64_t sample_bytes = 0;  // on a device, what a sample takes beside its tile
};

// Tiles stay near the size of a core's own cache, with enough rows for a matrix product to run at speed. Within that,
// lanes that differ in the same constants go together where they have enough in common (rollout/cost.h). `memory_limit`
// bytes (0: none) hold for all threads together. Costly pieces come first. Throws ArgumentError where not even one lane
// of one sample fits.
//
// On a device, tiles are as large as its memory (or `memory_limit`) allows, by a dry run; the constants are then where
// stages.residence says, which is not null.
std::vector<Piece> cut(const Stages& stages, Place& place, const Rollout& rollout, int threads,
                       std::int64_t memory_limit);

// The piece whose tiles have the most lanes times samples.
Piece largest(const std::vector<Piece>& pieces);

}  // namespace tqs
