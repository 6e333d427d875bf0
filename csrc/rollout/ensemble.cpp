#include "rollout/ensemble.h"

#include <algorithm>
#include <mutex>
#include <set>

#include "core/check.h"
#include "core/rng.h"
#include "rollout/collect.h"

namespace tqs {
namespace {

constexpr const char* kName = "ensemble rollout";

void check(const Program& program, const EnsembleTask& task, const OutputShape& shape) {
    const ProgramSpec& spec = program.spec();
    require(task.samples >= 1 && task.steps >= 1 && !task.lanes.empty(), kName, "expected samples, steps and lanes");
    require(task.states.size() == spec.states.size(), kName, "expected ", spec.states.size(), " state leaves, got ",
            task.states.size());
    require(task.inputs.size() == spec.inputs.size(), kName, "expected ", spec.inputs.size(), " input leaves, got ",
            task.inputs.size());
    require(task.inputs.empty() || task.input_steps >= task.steps, kName, "inputs cover ", task.input_steps, " of ",
            task.steps, " steps");
    require(task.values >= 1 && task.values <= task.steps * shape.block, kName, "cannot emit ", task.values,
            " values in ", task.steps, " steps");
    for (const Variant& variant : task.variants) {
        require(variant.buffer >= 0 && static_cast<std::size_t>(variant.buffer) < spec.buffers.size() &&
                    spec.buffers[static_cast<std::size_t>(variant.buffer)].kind == BufferKind::constant,
                kName, "a variant names no constant");
        const BufferSpec& buffer = spec.buffers[static_cast<std::size_t>(variant.buffer)];
        require(variant.data ||
                    (variant.begin >= 0 && variant.count >= 0 && variant.begin + variant.count <= buffer.elements),
                kName, "noise leaves its constant");
    }
    for (const auto& lane : task.lanes) {
        for (const int variant : lane) {
            require(variant >= 0 && static_cast<std::size_t>(variant) < task.variants.size(), kName,
                    "a lane names no variant");
        }
    }
}

template <class T>
void add_noise(const Variant& variant, const void* constant, std::int64_t elements, void* out) {
    constexpr std::int64_t kBlock = 256;
    const T* from = static_cast<const T*>(constant);
    T* to = static_cast<T*>(out);
    std::copy(from, from + elements, to);
    float normal[kBlock];
    for (std::int64_t begin = 0; begin < variant.count; begin += kBlock) {
        const std::int64_t count = std::min(kBlock, variant.count - begin);
        fill_normal(normal, count, variant.seed, variant.stream, static_cast<std::uint64_t>(begin));
        for (std::int64_t i = 0; i < count; ++i) {
            T& element = to[variant.begin + begin + i];
            element = static_cast<T>(static_cast<double>(element) + variant.scale * static_cast<double>(normal[i]));
        }
    }
}

// Per lane, the constants that its variants replace.
std::vector<std::vector<int>> changed_constants(const EnsembleTask& task) {
    std::vector<std::vector<int>> result;
    for (const std::vector<int>& lane : task.lanes) {
        std::set<int> buffers;
        for (const int index : lane) buffers.insert(task.variants[static_cast<std::size_t>(index)].buffer);
        result.emplace_back(buffers.begin(), buffers.end());
    }
    return result;
}

// The variants that some lanes of a tile use, and the noise drawn for them.
struct TileVariants {
    LaneConstants constants;
    std::vector<AlignedBytes> drawn;
    std::int64_t bytes = 0;
};

TileVariants gather_variants(const Program& program, const EnsembleTask& task, std::int64_t first, std::int64_t lanes) {
    TileVariants result;
    std::map<int, const void*> done;
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
        for (const int index : task.lanes[static_cast<std::size_t>(first + lane)]) {
            const Variant& variant = task.variants[static_cast<std::size_t>(index)];
            const BufferSpec& buffer = program.spec().buffers[static_cast<std::size_t>(variant.buffer)];
            const void*& data = done[index];
            if (!data && variant.data) data = variant.data;
            if (!data) {
                const std::int64_t bytes = buffer.elements * precision_bytes(buffer.precision);
                result.drawn.push_back(allocate_aligned(bytes));
                result.bytes += bytes;
                data = result.drawn.back().get();
                if (buffer.precision == Precision::float32) {
                    add_noise<float>(variant, buffer.data, buffer.elements, result.drawn.back().get());
                } else {
                    add_noise<double>(variant, buffer.data, buffer.elements, result.drawn.back().get());
                }
            }
            auto [entry, fresh] = result.constants.try_emplace(variant.buffer);
            if (fresh) entry->second.assign(static_cast<std::size_t>(lanes), buffer.data);
            entry->second[static_cast<std::size_t>(lane)] = data;
        }
    }
    return result;
}

}  // namespace

RolloutUse run_ensemble(Stages stages, const EnsembleTask& task, const Interrupt& interrupt) {
    const Program& program = *stages.program;
    const ProgramSpec& spec = program.spec();
    const OutputShape shape = output_shape(program);
    check(program, task, shape);
    const std::int64_t item = precision_bytes(program.buffer_of(spec.output).precision);
    const std::int64_t N = task.samples, T = task.values, C = shape.channels;
    const std::vector<Piece> pieces =
        cut(stages, {changed_constants(task), {}, N, task.steps, false, false}, task.threads, task.memory_limit);
    RolloutUse use{largest(pieces), 0};
    std::mutex mutex;

    for_each_tile(
        pieces, N, task.threads, interrupt,
        [&](std::int64_t lane, std::int64_t tile_lanes, std::int64_t sample, std::int64_t samples,
            const std::function<void()>& stop) {
            TileVariants variants = gather_variants(program, task, lane, tile_lanes);
            TileRun tile(stages, {tile_lanes, samples, false}, variants.constants, task.inputs, task.input_steps,
                         sample, {});
            for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
                if (!task.states[leaf]) continue;
                tile.set_state(leaf, 0, static_cast<const char*>(task.states[leaf]) + sample * tile.leaf_bytes(leaf));
            }
            for (std::int64_t t = 0; t < task.steps; ++t) {
                stop();
                tile.step(t);
                const Operand& output = tile.output();
                const std::int64_t values = std::min(shape.block, T - t * shape.block);
                for (std::int64_t l = 0; l < tile_lanes; ++l) {
                    for (std::int64_t value = 0; value < values; ++value) {
                        const std::int64_t time = t * shape.block + value;
                        for (std::int64_t n = 0; n < samples; ++n) {
                            const char* y = output_at(output, shape, l, n, value, false);
                            const std::int64_t row = time * N + sample + n;
                            if (task.errors) {
                                task.errors[(lane + l) * T * N + row] = squared_error(
                                    output, shape, y, static_cast<const char*>(task.reference) + row * C * item,
                                    task.scale);
                            }
                            if (task.outputs) {
                                copy_channels(output, shape, y,
                                              static_cast<char*>(task.outputs) + ((lane + l) * T * N + row) * C * item);
                            }
                        }
                    }
                }
            }
            for (std::size_t leaf = 0; leaf < task.final_states.size(); ++leaf) {
                for (std::int64_t l = 0; task.final_states[leaf] && l < tile_lanes; ++l) {
                    tile.get_state(leaf, l,
                                   static_cast<char*>(task.final_states[leaf]) +
                                       ((lane + l) * N + sample) * tile.leaf_bytes(leaf));
                }
            }
            const std::lock_guard lock(mutex);
            use.tile_bytes = std::max(use.tile_bytes, tile.allocated_bytes() + variants.bytes);
        });
    return use;
}

}  // namespace tqs
