// The frames of one tile's samples between two orthonormalisations.
#pragma once

#include <memory>
#include <vector>

#include "growth/stretching.h"
#include "rollout/tile_run.h"

namespace tqs {

// A state leaf as a part of the state vector.
struct FrameLeaf {
    Precision precision;
    std::int64_t elements, offset;
};
std::vector<FrameLeaf> frame_leaves(const Program& program);
// D of a program: elements of all state leaves together.
std::int64_t state_size(const Program& program);

class Frames {
  public:
    virtual ~Frames() = default;

    // Into the tangents of the tile.
    virtual void seed(TileRun& tile) = 0;
    // Out of them. Sets aside samples that are not finite after step `step`, orthonormalises the others, adds to sums
    // of `block`.
    virtual void factor(const TileRun& tile, std::int64_t step, std::int64_t block) = 0;
    // False where that is not known yet.
    virtual bool all_failed() const = 0;
    // What is left to write: to the task's final_frame and, from a device, logs, condition and diverged.
    virtual void write() = 0;
};

// Samples first ... first + samples - 1 of the task: on the device of `place`, unless it has none or the directions are
// too many for it. Adds to the task's logs, condition and diverged there.
std::unique_ptr<Frames> make_frames(const Program& program, const StretchingTask& task, Place& place,
                                    std::int64_t first, std::int64_t samples);
// Bytes that they take at `place` per sample.
std::int64_t frame_bytes(const Program& program, const StretchingTask& task, Place& place);

}  // namespace tqs
