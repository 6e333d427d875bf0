#include "rollout/predict.h"

#include <algorithm>
#include <set>

namespace tqs {
namespace {

// Counts what it is asked for and has nothing; scratch is as large as at `real`.
class Counter : public Device {
  public:
    explicit Counter(Device& real) : real_(real) {}

    std::int64_t bytes() const { return bytes_; }

    const ProgramKernels& kernels() const override { return real_.kernels(); }
    std::int64_t available() override { return 0; }
    PlaceBytes allocate(std::int64_t bytes) override {
        bytes_ += bytes;
        return PlaceBytes(&nothing_, [](char*) {});
    }
    std::int64_t layer_scratch(const LayerTask& task) override { return real_.layer_scratch(task); }
    std::int64_t packed_layer_scratch(const PackedLayerTask& task) override { return real_.packed_layer_scratch(task); }

    void write(char*, std::int64_t, const void*, std::int64_t, std::int64_t, std::int64_t) override {}
    void read(void*, std::int64_t, const char*, std::int64_t, std::int64_t, std::int64_t) override {}
    void within(const std::function<void()>&) override {}
    void layer(const LayerTask&) override {}
    void packed_layer(const PackedLayerTask&) override {}
    void prepack(const PackedView&, void*) override {}
    void move(const MoveTask&) override {}
    void collect(const CollectTask&) override {}
    void advance(std::int64_t*) override {}
    void add_noise(const NoiseTask&) override {}
    std::unique_ptr<Feed> feed(int) override { return nullptr; }
    std::int64_t stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size) override {
        return real_.stretch_scratch(samples, directions, size);
    }
    void stretch(const StretchTask&) override {}
    std::unique_ptr<Replay> record(const std::function<void()>&) override { return nullptr; }
    void pace() override {}

  private:
    Device& real_;
    std::int64_t bytes_ = 0;
    char nothing_ = 0;
};

}  // namespace

std::int64_t predict_bytes(const Stages& stages, Device& place, const Rollout& rollout, const Piece& piece) {
    const auto counter = std::make_shared<Counter>(place);
    const Extent extent{piece.lanes + (rollout.tangent ? 1 : 0), piece.samples, rollout.tangent};
    std::set<int> changed;
    for (std::int64_t lane = 0; lane < piece.lanes; ++lane) {
        const auto& own = rollout.changed[static_cast<std::size_t>(piece.lane + lane)];
        changed.insert(own.begin(), own.end());
    }
    LaneConstants constants;
    for (const int buffer : changed) {
        const void* data = stages.program->spec().buffers[static_cast<std::size_t>(buffer)].data;
        constants[buffer].assign(static_cast<std::size_t>(extent.lanes), data);
    }
    std::vector<InputSeries> inputs;
    for (std::size_t leaf = 0; leaf < stages.first().spec().inputs.size(); ++leaf) {
        inputs.push_back({nullptr, rollout.input_steps});
    }
    const std::size_t leaves = stages.program->spec().states.size();
    const Tile first(stages.first(), counter, extent, constants, inputs, rollout.seeded, stages.residence);
    if (stages.prologue) {
        Tile(*stages.program, counter, extent, constants, {}, std::vector<bool>(leaves, true), stages.residence);
    }
    const Collector collector(*stages.program, *counter, extent, rollout.values, rollout.wanted(piece));
    return counter->bytes() + rollout.drawn_bytes(piece) + piece.samples * rollout.sample_bytes;
}

std::int64_t predict_most(const Stages& stages, Device& place, const Rollout& rollout,
                          const std::vector<Piece>& pieces) {
    std::int64_t most = 0;
    std::set<std::pair<std::int64_t, std::int64_t>> seen;
    for (const Piece& piece : pieces) {
        if (!seen.emplace(piece.lanes * piece.samples, rollout.drawn_bytes(piece)).second) continue;
        most = std::max(most, predict_bytes(stages, place, rollout, piece));
    }
    return stages.residence->resident_bytes() + most;
}

}  // namespace tqs
