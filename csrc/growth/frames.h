// The frames of one tile's samples between two orthonormalisations.
#pragma once

#include <vector>

#include "growth/stretching.h"
#include "rollout/tile_run.h"

namespace tqs {

// D of a program: elements of all state leaves together.
std::int64_t state_size(const Program& program);

class Frames {
  public:
    // Samples first ... first + samples - 1 of the task. Adds to its logs, condition and diverged there.
    Frames(const Program& program, const StretchingTask& task, std::int64_t first, std::int64_t samples);

    // Into the tangents of the tile, and back.
    void seed(TileRun& tile);
    void read(const TileRun& tile);

    // Sets aside samples that are not finite after step `step`, orthonormalises the others, adds to sums of `block`.
    void factor(const TileRun& tile, std::int64_t step, std::int64_t block);

    bool all_failed() const;
    // To the task's final_frame.
    void write() const;

  private:
    struct Leaf {
        Precision precision;
        std::int64_t elements, offset;  // offset in the state vector
    };

    // body(staging as the leaf's own type, elements).
    template <class Body>
    void typed(const Leaf& leaf, const Body& body);
    double* row(std::int64_t sample, std::int64_t direction);
    void find_diverged(const TileRun& tile, std::int64_t step, std::int64_t block);
    void fail(std::int64_t sample, std::int64_t block);

    const StretchingTask& task_;
    std::int64_t first_, samples_, size_;
    std::vector<Leaf> leaves_;
    std::vector<double> frames_;   // [samples, K, D]
    std::vector<double> staging_;  // one leaf of all samples, in its own precision
    std::vector<double> logs_, scratch_;
    std::vector<char> failed_;
};

}  // namespace tqs
