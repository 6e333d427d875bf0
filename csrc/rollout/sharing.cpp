#include "rollout/sharing.h"

namespace tqs {
namespace {

std::size_t at(int index) {
    return static_cast<std::size_t>(index);
}

// Which buffers are shared when the state leaves in `states` are.
std::vector<char> propagate(const ProgramSpec& spec, const std::vector<int>& changed, const std::vector<char>& states) {
    std::vector<char> shared(spec.buffers.size(), 1);
    for (const int buffer : changed) shared[at(buffer)] = 0;
    for (std::size_t leaf = 0; leaf < spec.states.size(); ++leaf) {
        shared[at(spec.states[leaf].buffer)] = states[leaf];
    }
    for (const NodeSpec& node : spec.nodes) {
        char all = 1;
        for (const int input : node.inputs) {
            if (input >= 0) all = all && shared[at(spec.values[at(input)].buffer)];
        }
        for (const int output : node.outputs) {
            char& buffer = shared[at(spec.values[at(output)].buffer)];
            buffer = buffer && all;  // several copies may fill one buffer
        }
    }
    return shared;
}

}  // namespace

Sharing share(const Program& program, const std::vector<int>& changed, const std::vector<bool>& seeded) {
    const ProgramSpec& spec = program.spec();
    Sharing result;
    std::vector<char> states(spec.states.size(), 1);
    for (std::size_t leaf = 0; leaf < seeded.size(); ++leaf) states[leaf] = !seeded[leaf];
    result.first = propagate(spec, changed, states);
    // After step t a leaf is shared if what follows it was (and, where it slides, if it was itself). One regime must
    // serve every later step, so take what is shared at all of them.
    const auto follow = [&](const std::vector<char>& before, const std::vector<char>& shared) {
        std::vector<char> after(spec.states.size());
        for (std::size_t leaf = 0; leaf < after.size(); ++leaf) {
            const StateSpec& state = spec.states[leaf];
            const int source = state.next < 0 ? state.buffer : spec.values[at(state.next)].buffer;
            after[leaf] = shared[at(source)] && (state.slide == 0 || before[leaf]);
        }
        return after;
    };
    std::vector<char> later = follow(states, result.first);
    for (;;) {
        result.later = propagate(spec, changed, later);
        std::vector<char> meet = follow(later, result.later);
        for (std::size_t leaf = 0; leaf < meet.size(); ++leaf) meet[leaf] = meet[leaf] && later[leaf];
        if (meet == later) return result;
        later = std::move(meet);
    }
}

}  // namespace tqs
