#include "rollout/ensemble.h"

#include <algorithm>
#include <mutex>
#include <set>

#include "core/check.h"
#include "core/rng.h"
#include "rollout/collect.h"
#include "rollout/predict.h"

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

// The constant with its noise, at `place`: the same bits everywhere.
PlaceBytes draw(Place& place, const Residence& residence, const Variant& variant, const BufferSpec& buffer,
                std::int64_t bytes) {
    PlaceBytes drawn = place.allocate(bytes);
    if (Device* device = place.device()) {
        const void* from = residence.data(variant.buffer);
        if (residence.streams(variant.buffer)) {
            place.write(drawn.get(), 0, from, 0, bytes, 1);
            from = drawn.get();
        }
        device->add_noise({buffer.precision, from, drawn.get(), buffer.elements, variant.begin, variant.count,
                           variant.scale, variant.seed, variant.stream});
    } else {
        const auto add = buffer.precision == Precision::float32 ? add_noise<float> : add_noise<double>;
        add(variant, buffer.data, buffer.elements, drawn.get());
    }
    return drawn;
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

// What the noise of some lanes takes; lanes share what is drawn.
std::int64_t drawn_bytes(const Program& program, const EnsembleTask& task, const Piece& piece) {
    std::set<int> variants;
    for (std::int64_t lane = piece.lane; lane < piece.lane + piece.lanes; ++lane) {
        const std::vector<int>& own = task.lanes[static_cast<std::size_t>(lane)];
        variants.insert(own.begin(), own.end());
    }
    std::int64_t bytes = 0;
    for (const int index : variants) {
        const Variant& variant = task.variants[static_cast<std::size_t>(index)];
        const BufferSpec& buffer = program.spec().buffers[static_cast<std::size_t>(variant.buffer)];
        if (!variant.data) bytes += buffer.elements * precision_bytes(buffer.precision);
    }
    return bytes;
}

// The variants that some lanes of a tile use, and the noise drawn for them.
struct TileVariants {
    LaneConstants constants;
    std::vector<PlaceBytes> drawn;
    std::int64_t bytes = 0;
};

TileVariants gather_variants(const Program& program, Place& place, const Residence& residence, const EnsembleTask& task,
                             std::int64_t first, std::int64_t lanes) {
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
                result.drawn.push_back(draw(place, residence, variant, buffer, bytes));
                result.bytes += bytes;
                data = result.drawn.back().get();
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
    const std::shared_ptr<Place> place = program.place(task.stream);
    Residence residence(program, stages.prologue, *place);
    stages.residence = &residence;
    const auto wanted = [&](const Piece& piece, std::int64_t sample) {
        const auto at = [&](const void* rows, std::int64_t row) {
            return rows ? static_cast<const char*>(rows) + row * C * item : nullptr;
        };
        const std::int64_t begin = piece.lane * T * N + sample;
        return std::vector<Wanted>{{.first = 0,
                                    .lanes = piece.lanes,
                                    .reference = at(task.reference, sample),
                                    .scale = task.scale,
                                    .errors = task.errors ? task.errors + begin : nullptr,
                                    .error_lane = T * N,
                                    .row = N,
                                    .outputs = const_cast<char*>(at(task.outputs, begin)),
                                    .output_lane = T * N,
                                    .output_row = N}};
    };
    const Rollout rollout{.changed = changed_constants(task),
                          .seeded = {},
                          .samples = N,
                          .steps = task.steps,
                          .tangent = false,
                          .together = false,
                          .input_steps = task.input_steps,
                          .values = T,
                          .wanted = [&](const Piece& piece) { return wanted(piece, 0); },
                          .drawn_bytes = [&](const Piece& piece) { return drawn_bytes(program, task, piece); }};
    const std::vector<Piece> pieces = cut(stages, *place, rollout, task.threads, task.memory_limit);
    RolloutUse use{largest(pieces), 0};
    if (Device* device = place->device()) {
        use.constants = residence.resident_bytes();
        use.streamed = residence.streamed_bytes();
        use.predicted = predict_most(stages, *device, rollout, pieces);
    }
    std::mutex mutex;

    for_each_tile(
        pieces, N, place->device() ? 1 : task.threads, interrupt,
        [&](std::int64_t lane, std::int64_t tile_lanes, std::int64_t sample, std::int64_t samples,
            const std::function<void()>& stop) {
            TileVariants variants = gather_variants(program, *place, residence, task, lane, tile_lanes);
            TileRun tile(stages, place, {tile_lanes, samples, false}, variants.constants, task.inputs, task.input_steps,
                         sample, {});
            for (std::size_t leaf = 0; leaf < task.states.size(); ++leaf) {
                if (!task.states[leaf]) continue;
                tile.set_state(leaf, 0, static_cast<const char*>(task.states[leaf]) + sample * tile.leaf_bytes(leaf));
            }
            Collector collector(program, *place, {tile_lanes, samples, false}, T,
                                wanted({lane, tile_lanes, samples}, sample));
            for (std::int64_t t = 0; t < task.steps;) {
                stop();
                t += tile.step(t, task.steps - t, &collector);
            }
            collector.finish();
            for (std::size_t leaf = 0; leaf < task.final_states.size(); ++leaf) {
                const std::int64_t each = samples == N ? tile_lanes : 1;  // whose states lie behind one another
                for (std::int64_t l = 0; task.final_states[leaf] && l < tile_lanes; l += each) {
                    char* const rows = static_cast<char*>(task.final_states[leaf]);
                    tile.get_state(leaf, l, rows + ((lane + l) * N + sample) * tile.leaf_bytes(leaf), each);
                }
            }
            const std::lock_guard lock(mutex);
            use.tile_bytes = std::max(
                use.tile_bytes, use.constants + tile.allocated_bytes() + collector.allocated_bytes() + variants.bytes);
        });
    return use;
}

}  // namespace tqs
