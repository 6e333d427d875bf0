// How much memory a tile takes on a device, before anything is allocated there.
#pragma once

#include "rollout/cut.h"

namespace tqs {

// Bytes that run_ensemble, run_tangents or run_stretching allocate for a tile of `piece`, but for its tables (a few
// kilobytes per node): those of a dry run, which makes the tile at a place that only counts. The tile may need them all
// at once; `place` is asked for the scratch of its kernels.
std::int64_t predict_bytes(const Stages& stages, Device& place, const Rollout& rollout, const Piece& piece);

// The most that a tile of any of the pieces takes, with the constants that lie on the device during the rollout.
std::int64_t predict_most(const Stages& stages, Device& place, const Rollout& rollout,
                          const std::vector<Piece>& pieces);

}  // namespace tqs
