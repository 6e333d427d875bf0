// A step of a tile.
#include <algorithm>
#include <cstring>

#include "rollout/tile_nodes.h"

namespace tqs {
namespace {

std::size_t at(int index) {
    return static_cast<std::size_t>(index);
}

}  // namespace

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

// On a device: the operands [first, end) that are copies, `into` them before a node and out of them after it.
void Tile::run_moves(const Regime& regime, std::size_t first, std::size_t end, bool into) const {
    for (const Move& move : regime.moves) {
        const bool written = move.task.out_step != 0;
        if (move.operand >= first && move.operand < end && written != into) place_->device()->move(move.task);
    }
}

void Tile::run_node(Regime& regime, std::size_t node, std::int64_t t) {
    const bool streamed = feed_ && passing_[next_passing_].node == node;
    if (streamed) feed_->await(static_cast<int>(next_passing_));
    regime.frames[node].step = t;
    run_moves(regime, regime.begins[node], regime.begins[node + 1], true);
    program_.op(node).run(regime.frames[node]);
    run_moves(regime, regime.begins[node], regime.begins[node + 1], false);
    if (streamed) pass_on();
}

// The slot of the constant just read goes to the next one that has it, in this step or in the next.
void Tile::pass_on() {
    const char* const slot = passing_[next_passing_].to;
    const std::size_t count = passing_.size();
    std::size_t next = next_passing_;
    do next = (next + 1) % count;
    while (passing_[next].to != slot);
    if (next != next_passing_) copy_constant(next);
    next_passing_ = (next_passing_ + 1) % count;
}

// Steps to be recorded as one: between replays a device idles longer than within one. As many as make a graph of some
// hundred kernels, from where on that hardly counts; and no more than a part of those taken and left, because to record
// a kernel costs about as much as to launch it twice.
std::int64_t Tile::worth_recording(const Regime& regime, std::int64_t left) const {
    constexpr std::int64_t kKernels = 96, kReplays = 32;
    const auto kernels = static_cast<std::int64_t>(regime.frames.size() + regime.moves.size() + regime.next.size() + 2);
    const std::int64_t most = std::min({kKernels / kernels, (regime.taken + left) / kReplays, left});
    return std::max<std::int64_t>(1, most);
}

std::int64_t Tile::step(std::int64_t t, std::int64_t left, const Collect& collect) {
    Regime& regime = regime_of(t);
    const auto take = [&] {
        take_step(regime, t, collect, [](std::size_t) { return true; });
    };
    Device* const device = place_->device();
    std::int64_t taken = 1;
    if (!device) return take(), taken;
    place_->within([&] {
        // Copies on another stream are not recorded: a step that brings gigabytes takes far longer than its launches.
        const bool first = regime.taken == 0;
        if (const std::int64_t worth = worth_recording(regime, left);
            !first && !feed_ && worth >= 2 * regime.recorded) {
            regime.replay = device->record([&] {
                for (std::int64_t i = 0; i < worth; ++i) take();
            });
            regime.recorded = worth;
        }
        if (regime.replay && regime.recorded <= left) {
            regime.replay->run();
            taken = regime.recorded;
        } else {
            take();
        }
        regime.taken += taken;
        device->pace();
    });
    return taken;
}

// The state buffers of the later regime, from what the step just taken left in `next`.
void Tile::advance_states(const Regime& regime) {
    const ProgramSpec& spec = program_.spec();
    for (std::size_t leaf = 0; leaf < spec.states.size(); ++leaf) {
        const StateSpec& state = spec.states[leaf];
        if (state.next < 0) continue;
        const BufferSpec& buffer = spec.buffers[at(state.buffer)];
        const bool shared = later_.shared[at(state.buffer)];
        const std::int64_t lanes = shared ? 1 : extent_.lanes;
        const Operand& next = regime.operands[regime.next[leaf]];
        Operand target{};
        target.precision = buffer.precision;
        target.rank = next.rank;
        std::copy(next.sizes, next.sizes + next.rank, target.sizes);
        target.sample_stride = buffer.elements;
        target.lane_stride = shared ? 0 : buffer.elements * extent_.samples;
        target.data = states_[leaf];
        if (state.slide > 0) {
            advance_window(regime, leaf, target);
        } else {
            std::int64_t stride = 1;
            for (int axis = next.rank - 1; axis >= 0; --axis) {
                target.strides[axis] = stride;
                stride *= next.sizes[axis];
            }
        }
        copy(lanes, next, target);
    }
}

void Tile::copy(std::int64_t lanes, const Operand& x, const Operand& out) const {
    program_.kernels().movement[static_cast<int>(out.precision)].copy(
        {{lanes, extent_.samples, extent_.tangent && lanes > 1}, x, out});
}

// Moves a sliding state on; `target`, its buffer, becomes the positions that join.
void Tile::advance_window(const Regime& regime, std::size_t leaf, Operand& target) {
    const StateSpec& state = program_.spec().states[leaf];
    const bool shared = target.lane_stride == 0;
    const std::int64_t lanes = shared ? 1 : extent_.lanes;
    if (!shared && regime.shared[at(state.buffer)]) {
        // From now on lanes differ: each gets the window of lane 0 (or, as a tangent, zero).
        Operand window = target;
        window.rank = 1;
        window.sizes[0] = state.outer * state.pitch * state.inner;
        window.strides[0] = 1;
        Operand common = window;
        common.lane_stride = 0;
        copy(lanes, common, window);
    }
    slid_[leaf] += state.slide;
    if (place_->device()) {
        slide_through_spare(state, target, lanes);
        slid_[leaf] = 0;
    } else if (slid_[leaf] + state.length > state.pitch) {
        const std::int64_t item = precision_bytes(target.precision), pitch = state.pitch * state.inner * item;
        const std::int64_t from = slid_[leaf] * state.inner * item;
        const auto kept = static_cast<std::size_t>((state.length - state.slide) * state.inner * item);
        for (std::int64_t row = 0; row < lanes * extent_.samples * state.outer; ++row) {
            char* begin = states_[leaf] + row * pitch;
            std::memmove(begin, begin + from, kept);
        }
        slid_[leaf] = 0;
    }
    target.strides[0] = state.pitch * state.inner;
    target.strides[1] = state.inner;
    target.strides[2] = 1;
    target.data =
        states_[leaf] + (slid_[leaf] + state.length - state.slide) * state.inner * precision_bytes(target.precision);
}

// Where rows are moved by many threads at once, none may write what another has yet to read.
void Tile::slide_through_spare(const StateSpec& state, const Operand& buffer, std::int64_t lanes) const {
    Operand kept = buffer;
    kept.rank = 2;
    kept.sizes[0] = state.outer;
    kept.sizes[1] = (state.length - state.slide) * state.inner;
    kept.strides[0] = state.pitch * state.inner;
    kept.strides[1] = 1;
    if (kept.sizes[1] == 0) return;
    Operand from = kept, spare = kept;
    from.data = static_cast<char*>(kept.data) + state.slide * state.inner * precision_bytes(kept.precision);
    spare.data = spare_;
    copy(lanes, from, spare);
    copy(lanes, spare, kept);
}

}  // namespace tqs
