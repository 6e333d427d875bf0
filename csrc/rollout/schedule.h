// How tiles are spread over threads.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "rollout/cut.h"

namespace tqs {

// Called between steps, from the thread that asked for the rollout; true ends it with Interrupted.
using Interrupt = std::function<bool()>;

struct Interrupted {};

// Runs body(first lane, lanes, first sample, samples, stop) for every tile, in any order, on `threads` threads (0:
// default). A body calls stop() once a step; it throws Interrupted once `interrupt` has said so.
using TileBody =
    std::function<void(std::int64_t, std::int64_t, std::int64_t, std::int64_t, const std::function<void()>&)>;
void for_each_tile(const std::vector<Piece>& pieces, std::int64_t samples, int threads, const Interrupt& interrupt,
                   const TileBody& body);

}  // namespace tqs
