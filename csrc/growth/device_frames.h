// Frames that stay on the device: what is read back is read when the tile ends.
#pragma once

#include <vector>

#include "growth/frames.h"

namespace tqs {

class DeviceFrames : public Frames {
  public:
    // As make_frames.
    DeviceFrames(const Program& program, const StretchingTask& task, Device& device, std::int64_t first,
                 std::int64_t samples);
    // Per sample.
    static std::int64_t bytes(const Program& program, const StretchingTask& task, Device& device);

    void seed(TileRun& tile) override;
    void factor(const TileRun& tile, std::int64_t step, std::int64_t block) override;
    bool all_failed() const override { return false; }
    void write() override;

  private:
    template <class T>
    T* take(std::int64_t count);
    // Columns from `column` on of a leaf [columns, samples, elements]: column 0 is the state, the others the frame.
    Operand columns(const FrameLeaf& leaf, std::int64_t column) const;

    const StretchingTask& task_;
    Device& device_;
    std::int64_t first_;
    std::vector<FrameLeaf> leaves_;
    std::vector<PlaceBytes> memory_;
    StretchTask stretch_;
};

}  // namespace tqs
