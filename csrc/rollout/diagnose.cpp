#include "rollout/diagnose.h"

namespace tqs {

Failure find_non_finite(Stages stages, const TangentTask& task, const Interrupt& interrupt) {
    const std::int64_t N = task.samples, K = task.tangents;
    Failure earliest{-1, -1, -1, -1};
    const std::shared_ptr<Place> place = stages.program->place(task.stream);
    Residence residence(*stages.program, stages.prologue, *place);
    stages.residence = &residence;
    residence.stream_all();
    residence.bring();
    for (std::int64_t sample = 0; sample < N; ++sample) {
        std::vector<bool> seeded;
        for (const void* seed : task.seeds) seeded.push_back(seed != nullptr);
        TileRun tile(stages, place, {1 + K, 1, K > 0}, gather_seeds(*stages.program, task, 0, K), task.inputs,
                     task.input_steps, sample, seeded);
        for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
            if (!task.states[leaf]) continue;
            const std::int64_t bytes = tile.leaf_bytes(leaf);
            tile.set_state(leaf, 0, static_cast<const char*>(task.states[leaf]) + sample * bytes);
            for (std::int64_t k = 0; seeded[leaf] && k < K; ++k) {
                tile.set_state(leaf, 1 + k, static_cast<const char*>(task.seeds[leaf]) + (k * N + sample) * bytes);
            }
        }
        const std::int64_t end = earliest.step < 0 ? task.steps : earliest.step;
        for (std::int64_t t = 0; t < end; ++t) {
            if (interrupt && interrupt()) throw Interrupted{};
            if (const auto found = tile.find_non_finite(t)) {
                earliest = {t, found->node, found->lane - 1, sample};
                break;
            }
        }
    }
    return earliest;
}

}  // namespace tqs
