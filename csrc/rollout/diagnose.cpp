#include "rollout/diagnose.h"

namespace tqs {

Failure find_non_finite(const Program& program, const TangentTask& task, const Interrupt& interrupt) {
    const ProgramSpec& spec = program.spec();
    const std::int64_t N = task.samples, K = task.tangents;
    Failure earliest{-1, -1, -1, -1};
    for (std::int64_t sample = 0; sample < N; ++sample) {
        std::vector<InputSeries> inputs;
        for (std::size_t leaf = 0; leaf < task.inputs.size(); ++leaf) {
            const BufferSpec& buffer = spec.buffers[static_cast<std::size_t>(spec.inputs[leaf])];
            const std::int64_t bytes = task.input_steps * buffer.elements * precision_bytes(buffer.precision);
            inputs.push_back({static_cast<const char*>(task.inputs[leaf]) + sample * bytes, task.input_steps});
        }
        std::vector<bool> seeded;
        for (const void* seed : task.seeds) seeded.push_back(seed != nullptr);
        Tile tile(program, {1 + K, 1, K > 0}, gather_seeds(program, task, 0, K), std::move(inputs), seeded);
        for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
            const BufferSpec& buffer = spec.buffers[static_cast<std::size_t>(spec.states[leaf].buffer)];
            const std::int64_t bytes = tile.state_elements(leaf) * precision_bytes(buffer.precision);
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
