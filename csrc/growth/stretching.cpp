#include "growth/stretching.h"

#include <algorithm>
#include <mutex>

#include "core/check.h"
#include "growth/frames.h"

namespace tqs {
namespace {

constexpr const char* kName = "growth";

std::int64_t intervals_of(const StretchingTask& task) {
    return (task.steps + task.interval - 1) / task.interval;
}

void check(const Program& program, const StretchingTask& task) {
    const ProgramSpec& spec = program.spec();
    require(task.samples >= 1 && task.steps >= 1 && task.interval >= 1, kName,
            "expected at least one sample, step and step between orthonormalisations");
    require(task.states.size() == spec.states.size() && task.final_states.size() == spec.states.size(), kName,
            "expected ", spec.states.size(), " state leaves, got ", task.states.size());
    require(task.inputs.size() == spec.inputs.size(), kName, "expected ", spec.inputs.size(), " input leaves, got ",
            task.inputs.size());
    require(task.inputs.empty() || task.input_steps >= task.steps, kName, "inputs cover ", task.input_steps, " of ",
            task.steps, " steps");
    require(task.directions >= 1 && task.directions <= state_size(program), kName, "expected 1 to ",
            state_size(program), " directions, got ", task.directions);
    require(task.blocks >= 1 && task.blocks <= intervals_of(task), kName, "expected 1 to ", intervals_of(task),
            " blocks, got ", task.blocks);
}

}  // namespace

RolloutUse run_stretching(const Program& program, const StretchingTask& task, const Interrupt& interrupt) {
    check(program, task);
    const std::int64_t N = task.samples, K = task.directions, intervals = intervals_of(task);
    std::fill_n(task.logs, task.blocks * N * K, 0.0);
    std::fill_n(task.condition, N, 1.0);
    std::fill_n(task.diverged, N, -1);
    const std::vector<bool> seeded(task.states.size(), true);
    // Together: a frame is factored as a whole.
    const std::shared_ptr<Place> place = program.place(task.stream);
    Residence residence(program, nullptr, *place);
    const Stages stages{&program, nullptr, &residence};
    const Rollout rollout{.changed = std::vector<std::vector<int>>(static_cast<std::size_t>(K)),
                          .seeded = seeded,
                          .samples = N,
                          .steps = task.steps,
                          .tangent = true,
                          .together = true,
                          .input_steps = task.input_steps,
                          .sample_bytes = frame_bytes(program, task, *place)};
    const std::vector<Piece> pieces = cut(stages, *place, rollout, task.threads, 0);
    RolloutUse use{largest(pieces), 0};
    std::mutex mutex;

    for_each_tile(
        pieces, N, place->device() ? 1 : task.threads, interrupt,
        [&](std::int64_t, std::int64_t, std::int64_t first, std::int64_t samples, const std::function<void()>& stop) {
            TileRun tile(stages, place, {1 + K, samples, true}, {}, task.inputs, task.input_steps, first, seeded);
            for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
                tile.set_state(leaf, 0, static_cast<const char*>(task.states[leaf]) + first * tile.leaf_bytes(leaf));
            }
            const std::unique_ptr<Frames> frames = make_frames(program, task, *place, first, samples);
            for (std::int64_t interval = 0; interval < intervals && !frames->all_failed(); ++interval) {
                frames->seed(tile);
                const std::int64_t end = std::min(task.steps, (interval + 1) * task.interval);
                for (std::int64_t t = interval * task.interval; t < end;) {
                    stop();
                    t += tile.step(t, end - t);
                }
                frames->factor(tile, end - 1, interval * task.blocks / intervals);
            }
            frames->write();
            for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
                tile.get_state(leaf, 0, static_cast<char*>(task.final_states[leaf]) + first * tile.leaf_bytes(leaf));
            }
            const std::lock_guard lock(mutex);
            use.tile_bytes = std::max(use.tile_bytes, tile.allocated_bytes());
        });
    return use;
}

}  // namespace tqs
