// One tile's rollout from the first step to the last. Where a program has a prologue (the positions that a growing
// context begins with), that takes the first step and hands its states on.
#pragma once

#include <memory>
#include <optional>

#include "rollout/collect.h"
#include "rollout/tile.h"

namespace tqs {

// `prologue` null: none. The two have the same state leaves and the same constants under the same numbers.
// `residence`: where their constants lie.
struct Stages {
    const Program* program;
    const Program* prologue;
    Residence* residence = nullptr;

    const Program& first() const { return prologue ? *prologue : *program; }
};

class TileRun {
  public:
    // `inputs`: per leaf [N, steps, elements]; the tile begins at sample `sample` of them. `place`: the program's.
    TileRun(Stages stages, std::shared_ptr<Place> place, Extent extent, LaneConstants constants,
            const std::vector<const void*>& inputs, std::int64_t input_steps, std::int64_t sample,
            std::vector<bool> seeded);

    // Bytes of a leaf per sample.
    std::int64_t leaf_bytes(std::size_t leaf) const;
    void set_state(std::size_t leaf, std::int64_t lane, const void* data, std::int64_t lanes = 1) {
        tile_->set_state(leaf, lane, data, lanes);
    }
    void get_state(std::size_t leaf, std::int64_t lane, void* data, std::int64_t lanes = 1) const {
        tile_->get_state(leaf, lane, data, lanes);
    }

    // On a device, as in tile.h.
    void get_lanes(std::size_t leaf, const Operand& out) const { tile_->get_lanes(leaf, out); }
    void set_tangents(std::size_t leaf, const Operand& from) { tile_->set_tangents(leaf, from); }

    // As in tile.h. `collector` null: nothing is wanted of the steps.
    std::int64_t step(std::int64_t t, std::int64_t left, Collector* collector = nullptr);
    std::unique_ptr<NonFinite> find_non_finite(std::int64_t t);
    std::int64_t allocated_bytes() const { return allocated_; }

  private:
    void enter(std::int64_t t);

    Stages stages_;
    std::shared_ptr<Place> place_;
    Extent extent_;
    LaneConstants constants_;
    std::unique_ptr<Tile> tile_;
    std::int64_t allocated_ = 0;
};

}  // namespace tqs
