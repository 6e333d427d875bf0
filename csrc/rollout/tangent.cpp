#include "rollout/tangent.h"

#include <algorithm>
#include <mutex>
#include <set>

#include "core/check.h"
#include "rollout/collect.h"
#include "rollout/predict.h"

namespace tqs {
namespace {

constexpr const char* kName = "tangent rollout";

void check(const Program& program, const TangentTask& task, const OutputShape& shape) {
    const ProgramSpec& spec = program.spec();
    require(task.samples >= 1 && task.tangents >= 1 && task.steps >= 1, kName, "expected samples, tangents and steps");
    require(task.states.size() == spec.states.size() && task.seeds.size() == spec.states.size(), kName, "expected ",
            spec.states.size(), " state leaves");
    require(task.inputs.size() == spec.inputs.size(), kName, "expected ", spec.inputs.size(), " input leaves, got ",
            task.inputs.size());
    require(task.inputs.empty() || task.input_steps >= task.steps, kName, "inputs cover ", task.input_steps, " of ",
            task.steps, " steps");
    require(task.values >= 1 && task.values <= task.steps * shape.block, kName, "cannot emit ", task.values,
            " values in ", task.steps, " steps");
    for (const WeightSeed& seed : task.weight_seeds) {
        require(seed.buffer >= 0 && static_cast<std::size_t>(seed.buffer) < spec.buffers.size() &&
                    spec.buffers[static_cast<std::size_t>(seed.buffer)].kind == BufferKind::constant,
                kName, "a weight tangent names no constant");
        require(seed.tangent >= 0 && seed.tangent < task.tangents, kName, "a weight tangent names no lane");
    }
}

// Per tangent, the constants in which it begins.
std::vector<std::vector<int>> seeded_constants(const TangentTask& task) {
    std::vector<std::set<int>> buffers(static_cast<std::size_t>(task.tangents));
    for (const WeightSeed& seed : task.weight_seeds)
        buffers[static_cast<std::size_t>(seed.tangent)].insert(seed.buffer);
    std::vector<std::vector<int>> result;
    for (const std::set<int>& set : buffers) result.emplace_back(set.begin(), set.end());
    return result;
}

}  // namespace

LaneConstants gather_seeds(const Program& program, const TangentTask& task, std::int64_t first, std::int64_t count) {
    LaneConstants result;
    for (const WeightSeed& seed : task.weight_seeds) {
        if (seed.tangent < first || seed.tangent >= first + count) continue;
        auto [entry, fresh] = result.try_emplace(seed.buffer);
        if (fresh) {
            entry->second.assign(static_cast<std::size_t>(1 + count), nullptr);
            entry->second[0] = program.spec().buffers[static_cast<std::size_t>(seed.buffer)].data;
        }
        entry->second[static_cast<std::size_t>(1 + seed.tangent - first)] = seed.data;
    }
    return result;
}

RolloutUse run_tangents(Stages stages, const TangentTask& task, const Interrupt& interrupt) {
    const Program& program = *stages.program;
    const ProgramSpec& spec = program.spec();
    const OutputShape shape = output_shape(program);
    check(program, task, shape);
    const std::int64_t item = precision_bytes(program.buffer_of(spec.output).precision);
    const std::int64_t N = task.samples, K = task.tangents, T = task.values, C = shape.channels;
    std::vector<bool> seeded;
    for (const void* seed : task.seeds) seeded.push_back(seed != nullptr);
    const std::shared_ptr<Place> place = program.place(task.stream);
    Residence residence(program, stages.prologue, *place);
    stages.residence = &residence;
    const auto wanted = [&](const Piece& piece, std::int64_t sample) {
        std::vector<Wanted> result;
        if (task.outputs && piece.lane == 0) {
            char* outputs = static_cast<char*>(task.outputs) + sample * C * item;
            result.push_back({.first = 0, .lanes = 1, .row = N, .outputs = outputs, .output_row = N});
        }
        char* outputs = static_cast<char*>(task.tangent_outputs);
        result.push_back({.first = 1,
                          .lanes = piece.lanes,
                          .scale = task.scale,
                          .errors = task.errors ? task.errors + piece.lane * T * N + sample : nullptr,
                          .error_lane = T * N,
                          .row = N,
                          .outputs = outputs ? outputs + (piece.lane * N + sample) * C * item : nullptr,
                          .output_lane = N,
                          .output_row = K * N});
        return result;
    };
    const Rollout rollout{.changed = seeded_constants(task),
                          .seeded = seeded,
                          .samples = N,
                          .steps = task.steps,
                          .tangent = true,
                          .together = false,
                          .input_steps = task.input_steps,
                          .values = T,
                          .wanted = [&](const Piece& piece) { return wanted(piece, 0); }};
    const std::vector<Piece> pieces = cut(stages, *place, rollout, task.threads, task.memory_limit);
    RolloutUse use{largest(pieces), 0};
    if (Device* device = place->device()) {
        use.constants = residence.resident_bytes();
        use.streamed = residence.streamed_bytes();
        use.predicted = predict_most(stages, *device, rollout, pieces);
    }
    std::mutex mutex;

    for_each_tile(pieces, N, place->device() ? 1 : task.threads, interrupt,
                  [&](std::int64_t first, std::int64_t count, std::int64_t sample, std::int64_t samples,
                      const std::function<void()>& stop) {
                      TileRun tile(stages, place, {1 + count, samples, true}, gather_seeds(program, task, first, count),
                                   task.inputs, task.input_steps, sample, seeded);
                      const auto at = [&](const void* leaves, std::size_t leaf, std::int64_t tangent) {
                          return static_cast<const char*>(leaves) + (tangent * N + sample) * tile.leaf_bytes(leaf);
                      };
                      // Tangents whose states [N, ...] lie behind one another are copied as one.
                      const std::int64_t each = samples == N ? count : 1;
                      for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
                          if (!task.states[leaf]) continue;
                          tile.set_state(leaf, 0, at(task.states[leaf], leaf, 0));
                          for (std::int64_t k = 0; seeded[leaf] && k < count; k += each) {
                              tile.set_state(leaf, 1 + k, at(task.seeds[leaf], leaf, first + k), each);
                          }
                      }
                      Collector collector(program, *place, {1 + count, samples, true}, T,
                                          wanted({first, count, samples}, sample));
                      for (std::int64_t t = 0; t < task.steps;) {
                          stop();
                          t += tile.step(t, task.steps - t, &collector);
                      }
                      collector.finish();
                      for (std::size_t leaf = 0; leaf < task.final_states.size(); ++leaf) {
                          if (first == 0 && task.final_states[leaf])
                              tile.get_state(leaf, 0, const_cast<char*>(at(task.final_states[leaf], leaf, 0)));
                      }
                      for (std::size_t leaf = 0; leaf < task.final_tangents.size(); ++leaf) {
                          for (std::int64_t k = 0; task.final_tangents[leaf] && k < count; k += each) {
                              tile.get_state(leaf, 1 + k,
                                             const_cast<char*>(at(task.final_tangents[leaf], leaf, first + k)), each);
                          }
                      }
                      const std::lock_guard lock(mutex);
                      const std::int64_t taken = tile.allocated_bytes() + collector.allocated_bytes();
                      use.tile_bytes = std::max(use.tile_bytes, use.constants + taken);
                  });
    return use;
}

}  // namespace tqs
