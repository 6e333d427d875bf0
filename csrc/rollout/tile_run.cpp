#include "rollout/tile_run.h"

#include <algorithm>

namespace tqs {
namespace {

std::vector<InputSeries> series_of(const Program& program, const std::vector<const void*>& inputs, std::int64_t steps,
                                   std::int64_t sample) {
    std::vector<InputSeries> series;
    for (std::size_t leaf = 0; leaf < inputs.size(); ++leaf) {
        const BufferSpec& buffer = program.spec().buffers[static_cast<std::size_t>(program.spec().inputs[leaf])];
        const std::int64_t bytes = steps * buffer.elements * precision_bytes(buffer.precision);
        series.push_back({static_cast<const char*>(inputs[leaf]) + sample * bytes, steps});
    }
    return series;
}

}  // namespace

TileRun::TileRun(Stages stages, std::shared_ptr<Place> place, Extent extent, LaneConstants constants,
                 const std::vector<const void*>& inputs, std::int64_t input_steps, std::int64_t sample,
                 std::vector<bool> seeded)
    : stages_(stages), place_(std::move(place)), extent_(extent), constants_(std::move(constants)) {
    tile_ = std::make_unique<Tile>(stages.first(), place_, extent, constants_,
                                   series_of(stages.first(), inputs, input_steps, sample), std::move(seeded),
                                   stages.residence);
    allocated_ = tile_->allocated_bytes();
}

std::int64_t TileRun::leaf_bytes(std::size_t leaf) const {
    const ProgramSpec& spec = stages_.program->spec();
    return tile_->state_elements(leaf) *
           precision_bytes(spec.buffers[static_cast<std::size_t>(spec.states[leaf].buffer)].precision);
}

// Hands the states of the prologue on to the program, before its first step.
void TileRun::enter(std::int64_t t) {
    if (!stages_.prologue || t != 1) return;
    const std::size_t leaves = stages_.program->spec().states.size();
    auto next = std::make_unique<Tile>(*stages_.program, place_, extent_, constants_, std::vector<InputSeries>{},
                                       std::vector<bool>(leaves, true), stages_.residence);
    std::int64_t largest = 0;
    for (std::size_t leaf = 0; leaf < leaves; ++leaf) largest = std::max(largest, leaf_bytes(leaf));
    const AlignedBytes staging = allocate_aligned(largest * extent_.samples);
    for (std::size_t leaf = 0; leaf < leaves; ++leaf) {
        for (std::int64_t lane = 0; lane < extent_.lanes; ++lane) {
            tile_->get_state(leaf, lane, staging.get());
            next->set_state(leaf, lane, staging.get());
        }
    }
    allocated_ = std::max(allocated_, tile_->allocated_bytes() + next->allocated_bytes());
    tile_ = std::move(next);
}

std::int64_t TileRun::step(std::int64_t t, std::int64_t left, Collector* collector) {
    enter(t);
    const std::int64_t began = stages_.prologue && t > 0 ? 1 : 0;
    if (!collector) return tile_->step(t - began, left, {});
    // Of two pointers: a larger closure would be allocated at every step.
    const Moment moment{t, tile_->clock(), began};
    return tile_->step(t - began, left,
                       [collector, &moment](const Operand& output) { collector->collect(output, moment); });
}

std::unique_ptr<NonFinite> TileRun::find_non_finite(std::int64_t t) {
    enter(t);
    return tile_->find_non_finite(stages_.prologue && t > 0 ? t - 1 : t);
}

}  // namespace tqs
