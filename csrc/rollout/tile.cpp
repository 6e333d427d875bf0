#include "rollout/tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"

namespace tqs {
namespace {

std::int64_t aligned(std::int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

std::size_t at(int index) {
    return static_cast<std::size_t>(index);
}

double load(const char* element, Precision precision) {
    if (precision == Precision::float64) {
        double value;
        std::memcpy(&value, element, sizeof value);
        return value;
    }
    float value;
    std::memcpy(&value, element, sizeof value);
    return static_cast<double>(value);
}

// Calls body(element pointer) for every element of lane `lane`, sample `sample`.
template <class Body>
void for_each_element(const Operand& x, std::int64_t lane, std::int64_t sample, const Body& body) {
    const std::int64_t item = precision_bytes(x.precision);
    const char* base = static_cast<const char*>(x.lanes ? x.lanes[lane] : x.data);
    if (!base) return;
    base += ((x.lanes ? 0 : lane * x.lane_stride) + sample * x.sample_stride) * item;
    std::int64_t index[kMaxRank] = {};
    for (;;) {
        std::int64_t offset = 0;
        for (int axis = 0; axis < x.rank; ++axis) offset += index[axis] * x.strides[axis];
        if (!body(base + offset * item)) return;
        int axis = x.rank - 1;
        while (axis >= 0 && ++index[axis] == x.sizes[axis]) index[axis--] = 0;
        if (axis < 0) return;
    }
}

}  // namespace

Tile::Tile(const Program& program, Extent extent, LaneConstants constants, std::vector<InputSeries> inputs,
           std::vector<bool> seeded)
    : program_(program), extent_(extent), constants_(std::move(constants)), inputs_(std::move(inputs)) {
    const ProgramSpec& spec = program.spec();
    state_of_.assign(spec.buffers.size(), -1);
    input_of_.assign(spec.buffers.size(), -1);
    for (std::size_t leaf = 0; leaf < spec.states.size(); ++leaf) {
        state_of_[at(spec.states[leaf].buffer)] = static_cast<int>(leaf);
    }
    for (std::size_t leaf = 0; leaf < spec.inputs.size(); ++leaf) {
        input_of_[at(spec.inputs[leaf])] = static_cast<int>(leaf);
    }
    slid_.assign(spec.states.size(), 0);
    std::vector<int> changed;
    for (const auto& [buffer, lanes] : constants_) changed.push_back(buffer);
    Sharing sharing = share(program, changed, seeded);
    first_.shared = std::move(sharing.first);
    later_.shared = std::move(sharing.later);
    pack_constants();
    allocate();
    build(later_);
    if (first_.shared != later_.shared) build(first_);
    last_ = &regime_of(0);
}

void Tile::pack_constants() {
    const ProgramSpec& spec = program_.spec();
    panel_lanes_.resize(spec.nodes.size());
    for (std::size_t node = 0; node < spec.nodes.size(); ++node) {
        const Op& op = program_.op(node);
        if (op.packed_input() < 0) continue;
        const int buffer = spec.values[at(spec.nodes[node].inputs[at(op.packed_input())])].buffer;
        const auto found = constants_.find(buffer);
        if (found == constants_.end()) continue;
        std::map<const void*, const void*> done{{spec.buffers[at(buffer)].data, program_.panels(node)},
                                                {nullptr, nullptr}};
        for (const void* data : found->second) {
            const auto [entry, fresh] = done.try_emplace(data, nullptr);
            if (fresh) {
                packed_.push_back(allocate_aligned(op.packed_bytes(program_.kernels())));
                allocated_ += op.packed_bytes(program_.kernels());
                op.pack(program_.kernels(), data, packed_.back().get());
                entry->second = packed_.back().get();
            }
            panel_lanes_[node].push_back(entry->second);
        }
    }
}

std::int64_t Tile::bytes(const Program& program, Extent extent) {
    return extent.lanes * extent.samples * (program.arena_bytes() + program.state_bytes());
}

void Tile::allocate() {
    const ProgramSpec& spec = program_.spec();
    const std::int64_t total = bytes(program_, extent_);
    memory_ = allocate_aligned(total);
    allocated_ += total;
    arena_ = reinterpret_cast<char*>(memory_.get());
    char* position = arena_ + extent_.lanes * extent_.samples * program_.arena_bytes();
    for (const StateSpec& state : spec.states) {
        const BufferSpec& buffer = spec.buffers[at(state.buffer)];
        states_.push_back(position);
        position += extent_.lanes * extent_.samples * aligned(buffer.elements * precision_bytes(buffer.precision));
    }
}

Operand Tile::operand_of(const Regime& regime, int value) {
    const ProgramSpec& spec = program_.spec();
    Operand operand{};
    if (value < 0) return operand;
    const ValueSpec& view = spec.values[at(value)];
    const BufferSpec& buffer = spec.buffers[at(view.buffer)];
    operand.precision = buffer.precision;
    operand.rank = static_cast<int>(view.sizes.size());
    std::copy(view.sizes.begin(), view.sizes.end(), operand.sizes);
    std::copy(view.strides.begin(), view.strides.end(), operand.strides);
    const std::int64_t offset = view.offset * precision_bytes(buffer.precision);
    const bool shared = regime.shared[at(view.buffer)];
    switch (buffer.kind) {
        case BufferKind::constant: {
            operand.data = const_cast<char*>(static_cast<const char*>(buffer.data) + offset);
            if (const auto found = constants_.find(view.buffer); found != constants_.end()) {
                auto table = std::make_unique<std::vector<void*>>();
                for (const void* data : found->second) {
                    table->push_back(data ? const_cast<char*>(static_cast<const char*>(data) + offset) : nullptr);
                }
                operand.lanes = table->data();
                lane_tables_.push_back(std::move(table));
            }
            break;
        }
        case BufferKind::arena:
            operand.sample_stride = program_.room(view.buffer);
            operand.lane_stride = shared ? 0 : operand.sample_stride * extent_.samples;
            operand.data = arena_ + program_.arena_offset(view.buffer) * extent_.lanes * extent_.samples + offset;
            break;
        case BufferKind::state:
            operand.sample_stride = buffer.elements;
            operand.lane_stride = shared ? 0 : buffer.elements * extent_.samples;
            operand.data = states_[at(state_of_[at(view.buffer)])] + offset;
            break;
        case BufferKind::input: {
            const InputSeries& series = inputs_[at(input_of_[at(view.buffer)])];
            operand.sample_stride = series.steps * buffer.elements;
            operand.data = const_cast<char*>(static_cast<const char*>(series.data) + offset);
            break;
        }
    }
    return operand;
}

// Notes the operand at `position` of regime.operands where its data move between steps.
Operand Tile::operand_of(Regime& regime, int value, std::size_t position) {
    const ProgramSpec& spec = program_.spec();
    if (value >= 0) {
        const ValueSpec& view = spec.values[at(value)];
        const BufferSpec& buffer = spec.buffers[at(view.buffer)];
        const bool slides = buffer.kind == BufferKind::state && spec.states[at(state_of_[at(view.buffer)])].slide > 0;
        if (slides || view.step > 0 || buffer.kind == BufferKind::input) regime.moving.push_back({position, value});
    }
    return operand_of(static_cast<const Regime&>(regime), value);
}

void Tile::build(Regime& regime) {
    const ProgramSpec& spec = program_.spec();
    const auto add = [&](int value) {
        regime.operands.push_back({});
        const std::size_t position = regime.operands.size() - 1;
        regime.operands[position] = operand_of(regime, value, position);
        return position;
    };
    for (const NodeSpec& node : spec.nodes) {
        regime.begins.push_back(regime.operands.size());
        for (const int input : node.inputs) add(input);
        for (const int output : node.outputs) add(output);
    }
    regime.begins.push_back(regime.operands.size());
    regime.output = add(spec.output);
    for (const StateSpec& state : spec.states) regime.next.push_back(add(state.next));

    std::int64_t scratch = 0;
    for (std::size_t index = 0; index < spec.nodes.size(); ++index) {
        const NodeSpec& node = spec.nodes[index];
        const std::span operands(regime.operands.data() + regime.begins[index],
                                 node.inputs.size() + node.outputs.size());
        Frame frame{};
        frame.kernels = &program_.kernels();
        frame.in = operands.first(node.inputs.size());
        frame.out = operands.subspan(node.inputs.size());
        const bool once = is_shared(frame.out[0]);
        frame.extent = {once ? 1 : extent_.lanes, extent_.samples, extent_.tangent && !once};
        frame.panels.shared = program_.panels(index);
        if (!panel_lanes_[index].empty()) frame.panels.lanes = panel_lanes_[index].data();
        scratch = std::max(scratch, program_.op(index).scratch_bytes(frame));
        regime.frames.push_back(frame);
    }
    packed_.push_back(allocate_aligned(scratch));
    allocated_ += scratch;
    for (const Strip& strip : program_.strips().strips) {
        uncut_.reserve(regime.begins[at(strip.end)] - regime.begins[at(strip.first)]);
    }
    for (Frame& frame : regime.frames) frame.scratch = packed_.back().get();
}

std::int64_t Tile::state_elements(std::size_t leaf) const {
    const StateSpec& state = program_.spec().states[leaf];
    return state.slide > 0 ? state.outer * state.length * state.inner
                           : program_.spec().buffers[at(state.buffer)].elements;
}

void Tile::set_state(std::size_t leaf, std::int64_t lane, const void* data) {
    const StateSpec& state = program_.spec().states[leaf];
    const BufferSpec& buffer = program_.spec().buffers[at(state.buffer)];
    const std::int64_t item = precision_bytes(buffer.precision);
    const std::int64_t rows = state.slide > 0 ? state.outer : 1;
    const std::int64_t row = state_elements(leaf) / rows * item;
    const std::int64_t pitch = buffer.elements / rows * item;
    const std::int64_t shift = slid_[leaf] * state.inner * item;
    for (std::int64_t r = 0; r < extent_.samples * rows; ++r) {
        std::memcpy(states_[leaf] + (lane * extent_.samples * rows + r) * pitch + shift,
                    static_cast<const char*>(data) + r * row, static_cast<std::size_t>(row));
    }
}

void Tile::get_state(std::size_t leaf, std::int64_t lane, void* data) const {
    const StateSpec& state = program_.spec().states[leaf];
    const BufferSpec& buffer = program_.spec().buffers[at(state.buffer)];
    const std::int64_t item = precision_bytes(buffer.precision);
    const std::int64_t rows = state.slide > 0 ? state.outer : 1;
    const std::int64_t row = state_elements(leaf) / rows * item;
    const std::int64_t pitch = buffer.elements / rows * item;
    const std::int64_t shift = slid_[leaf] * state.inner * item;
    const bool shared = later_.shared[at(state.buffer)];
    if (shared && extent_.tangent && lane > 0) {
        std::memset(data, 0, static_cast<std::size_t>(extent_.samples * rows * row));
        return;
    }
    const std::int64_t source = shared ? 0 : lane;
    for (std::int64_t r = 0; r < extent_.samples * rows; ++r) {
        std::memcpy(static_cast<char*>(data) + r * row,
                    states_[leaf] + (source * extent_.samples * rows + r) * pitch + shift,
                    static_cast<std::size_t>(row));
    }
}

void Tile::move_pointers(Regime& regime, std::int64_t t) {
    const ProgramSpec& spec = program_.spec();
    for (const Regime::Moving& moving : regime.moving) {
        const ValueSpec& view = spec.values[at(moving.value)];
        const BufferSpec& buffer = spec.buffers[at(view.buffer)];
        Operand& operand = regime.operands[moving.operand];
        const std::int64_t item = precision_bytes(buffer.precision);
        const std::int64_t bytes = (view.offset + t * view.step) * item;
        const char* base = nullptr;
        switch (buffer.kind) {
            case BufferKind::arena:
                base = arena_ + program_.arena_offset(view.buffer) * extent_.lanes * extent_.samples;
                break;
            case BufferKind::constant:
                base = static_cast<const char*>(buffer.data);
                if (operand.lanes) {
                    const std::vector<const void*>& lanes = constants_.at(view.buffer);
                    for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
                        const char* data = static_cast<const char*>(lanes[lane]);
                        const_cast<void**>(operand.lanes)[lane] = data ? const_cast<char*>(data + bytes) : nullptr;
                    }
                }
                break;
            case BufferKind::state: {
                const int leaf = state_of_[at(view.buffer)];
                base = states_[at(leaf)] + slid_[at(leaf)] * spec.states[at(leaf)].inner * item;
                break;
            }
            case BufferKind::input:
                base =
                    static_cast<const char*>(inputs_[at(input_of_[at(view.buffer)])].data) + t * buffer.elements * item;
                break;
        }
        operand.data = const_cast<char*>(base + bytes);
    }
}

// The operands of a node of a strip, as `whole`, to rows [row, row + rows).
void Tile::cut_operands(std::size_t node, std::int64_t row, std::int64_t rows, const Operand* whole,
                        Operand* operands) const {
    const NodeSpec& spec = program_.spec().nodes[node];
    const std::vector<Cut>& cuts = program_.strips().cuts[node];
    for (std::size_t i = 0; i < cuts.size(); ++i) {
        const auto [axis, each] = cuts[i];
        if (axis < 0) continue;
        const int value = i < spec.inputs.size() ? spec.inputs[i] : spec.outputs[i - spec.inputs.size()];
        const int buffer = program_.spec().values[at(value)].buffer;
        operands[i].sizes[axis] = rows * each;
        if (program_.strips().local_elements[at(buffer)] > 0) continue;
        operands[i].data = static_cast<char*>(whole[i].data) +
                           row * each * whole[i].strides[axis] * precision_bytes(whole[i].precision);
    }
}

template <class Visit>
void Tile::run_nodes(Regime& regime, std::int64_t t, const Visit& visit) {
    const Strips& strips = program_.strips();
    auto strip = strips.strips.begin();
    bool going = true;
    for (std::size_t node = 0; going && node < regime.frames.size();) {
        if (strip == strips.strips.end() || node < at(strip->first)) {
            regime.frames[node].step = t;
            program_.op(node).run(regime.frames[node]);
            going = visit(node++);
            continue;
        }
        const std::size_t end = at(strip->end);
        Operand* const first = regime.operands.data() + regime.begins[node];
        uncut_.assign(first, regime.operands.data() + regime.begins[end]);
        for (std::int64_t row = 0; row < strip->rows; row += strip->some) {
            const std::int64_t rows = std::min(strip->some, strip->rows - row);
            for (std::size_t i = node; i < end; ++i) {
                Frame& frame = regime.frames[i];
                frame.step = t;
                const std::size_t begin = regime.begins[i] - regime.begins[node];
                cut_operands(i, row, rows, uncut_.data() + begin, first + begin);
                program_.op(i).run(frame);
                going = visit(i) && going;
            }
        }
        std::copy(uncut_.begin(), uncut_.end(), first);
        node = end;
        ++strip;
    }
}

void Tile::step(std::int64_t t) {
    Regime& regime = regime_of(t);
    move_pointers(regime, t);
    run_nodes(regime, t, [](std::size_t) { return true; });
    advance_states(regime);
    last_ = &regime;
}

const Operand& Tile::output() const {
    return last_->operands[last_->output];
}

// The state buffers of the later regime, from what the step just taken left in `next`.
void Tile::advance_states(const Regime& regime) {
    const ProgramSpec& spec = program_.spec();
    for (std::size_t leaf = 0; leaf < spec.states.size(); ++leaf) {
        const StateSpec& state = spec.states[leaf];
        if (state.next < 0) continue;
        const BufferSpec& buffer = spec.buffers[at(state.buffer)];
        const std::int64_t item = precision_bytes(buffer.precision);
        const bool was_shared = regime.shared[at(state.buffer)];
        const bool shared = later_.shared[at(state.buffer)];
        const std::int64_t lanes = shared ? 1 : extent_.lanes;
        const std::int64_t rows = extent_.samples * state.outer;
        Operand next = regime.operands[regime.next[leaf]];
        Operand target{};
        target.precision = buffer.precision;
        target.rank = next.rank;
        std::copy(next.sizes, next.sizes + next.rank, target.sizes);
        target.sample_stride = buffer.elements;
        target.lane_stride = shared ? 0 : buffer.elements * extent_.samples;
        target.data = states_[leaf];
        if (state.slide > 0) {
            const std::int64_t pitch = state.pitch * state.inner * item;
            if (!shared && was_shared) {  // from now on lanes differ: each gets the window (or, as a tangent, zero)
                const std::size_t one = static_cast<std::size_t>(rows * pitch);
                for (std::int64_t lane = 1; lane < lanes; ++lane) {
                    if (extent_.tangent) {
                        std::memset(states_[leaf] + lane * rows * pitch, 0, one);
                    } else {
                        std::memcpy(states_[leaf] + lane * rows * pitch, states_[leaf], one);
                    }
                }
            }
            slid_[leaf] += state.slide;
            if (slid_[leaf] + state.length > state.pitch) {
                const std::int64_t from = slid_[leaf] * state.inner * item;
                const auto kept = static_cast<std::size_t>((state.length - state.slide) * state.inner * item);
                for (std::int64_t row = 0; row < lanes * rows; ++row) {
                    char* begin = states_[leaf] + row * pitch;
                    std::memmove(begin, begin + from, kept);
                }
                slid_[leaf] = 0;
            }
            target.strides[0] = state.pitch * state.inner;
            target.strides[1] = state.inner;
            target.strides[2] = 1;
            target.data = states_[leaf] + (slid_[leaf] + state.length - state.slide) * state.inner * item;
        } else {
            std::int64_t stride = 1;
            for (int axis = next.rank - 1; axis >= 0; --axis) {
                target.strides[axis] = stride;
                stride *= next.sizes[axis];
            }
        }
        program_.kernels().movement[static_cast<int>(buffer.precision)].copy(
            {{lanes, extent_.samples, extent_.tangent && lanes > 1}, next, target});
    }
}

std::unique_ptr<NonFinite> Tile::find_non_finite(std::int64_t t) {
    Regime& regime = regime_of(t);
    move_pointers(regime, t);
    // Infinities are legitimate inside a step (a masked score); a NaN hardly ever is. The first NaN counts before any
    // infinity.
    std::unique_ptr<NonFinite> infinite, invalid;
    // A strip comes to its nodes again and again: the earliest node counts.
    const auto note = [](std::unique_ptr<NonFinite>& found, const NonFinite& here) {
        if (!found || here.node < found->node) found = std::make_unique<NonFinite>(here);
    };
    const auto inspect = [&](const Operand& x, int node, const Extent& extent) {
        for (std::int64_t lane = 0; lane < extent.lanes; ++lane) {
            for (std::int64_t sample = 0; sample < extent.samples; ++sample) {
                for_each_element(x, lane, sample, [&](const char* element) {
                    const double value = load(element, x.precision);
                    if (std::isnan(value)) note(invalid, {node, lane, sample});
                    if (std::isinf(value)) note(infinite, {node, lane, sample});
                    return !std::isnan(value);
                });
            }
        }
    };
    run_nodes(regime, t, [&](std::size_t node) {
        const Frame& frame = regime.frames[node];
        for (const Operand& out : frame.out) inspect(out, static_cast<int>(node), frame.extent);
        return !invalid;
    });
    advance_states(regime);
    last_ = &regime;
    return invalid ? std::move(invalid) : std::move(infinite);
}

}  // namespace tqs
