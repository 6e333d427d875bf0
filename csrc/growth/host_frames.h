// Frames in the memory of this process, factored by the thread that runs the tile.
#pragma once

#include <vector>

#include "growth/frames.h"

namespace tqs {

class HostFrames : public Frames {
  public:
    // As make_frames.
    HostFrames(const Program& program, const StretchingTask& task, std::int64_t first, std::int64_t samples);

    void seed(TileRun& tile) override;
    void factor(const TileRun& tile, std::int64_t step, std::int64_t block) override;
    bool all_failed() const override;
    void write() override;

  private:
    // body(staging as the leaf's own type, elements).
    template <class Body>
    void typed(const FrameLeaf& leaf, const Body& body);
    double* row(std::int64_t sample, std::int64_t direction);
    void read(const TileRun& tile);
    void find_diverged(const TileRun& tile, std::int64_t step, std::int64_t block);
    void fail(std::int64_t sample, std::int64_t block);

    const StretchingTask& task_;
    std::int64_t first_, samples_, size_;
    std::vector<double> frames_;   // [samples, K, D]
    std::vector<double> staging_;  // one leaf of all samples, in its own precision
    std::vector<double> logs_, scratch_;
    std::vector<char> failed_;
    std::vector<FrameLeaf> leaves_;
};

}  // namespace tqs
