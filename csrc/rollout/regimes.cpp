// The operands and frames of a tile under each of its regimes.
#include <algorithm>

#include "rollout/tile.h"

namespace tqs {
namespace {

std::size_t at(int index) {
    return static_cast<std::size_t>(index);
}

}  // namespace

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
            operand.data = const_cast<char*>(static_cast<const char*>(constant(view.buffer)) + offset);
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

// Whether a value's data lie elsewhere at another step.
bool Tile::moves(int value) const {
    const ProgramSpec& spec = program_.spec();
    const ValueSpec& view = spec.values[at(value)];
    const BufferSpec& buffer = spec.buffers[at(view.buffer)];
    const bool slides = buffer.kind == BufferKind::state && spec.states[at(state_of_[at(view.buffer)])].slide > 0;
    return (slides && !place_->device()) || view.step > 0 || buffer.kind == BufferKind::input;
}

// Notes the operand at `position` of regime.operands where its data move between steps.
Operand Tile::operand_of(Regime& regime, int value, std::size_t position, bool written) {
    Operand operand = operand_of(static_cast<const Regime&>(regime), value);
    if (value < 0 || !moves(value)) return operand;
    if (place_->device()) {
        note_move(regime, value, position, written, operand);
    } else {
        regime.moving.push_back({position, value});
    }
    return operand;
}

// On a device the operand becomes a contiguous copy of its own.
void Tile::note_move(Regime& regime, int value, std::size_t position, bool written, Operand& operand) {
    const ValueSpec& view = program_.spec().values[at(value)];
    const BufferSpec& buffer = program_.spec().buffers[at(view.buffer)];
    const std::int64_t step = view.step + (buffer.kind == BufferKind::input ? buffer.elements : 0);
    Operand copy = operand;
    std::int64_t stride = 1;
    for (int axis = copy.rank - 1; axis >= 0; --axis) {
        copy.strides[axis] = stride;
        stride *= copy.sizes[axis];
    }
    const std::int64_t lanes = is_shared(operand) ? 1 : extent_.lanes;
    const std::int64_t samples = operand.sample_stride == 0 ? 1 : extent_.samples;
    copy.lanes = nullptr;
    copy.sample_stride = samples == 1 && operand.sample_stride == 0 ? 0 : stride;
    copy.lane_stride = is_shared(operand) ? 0 : stride * samples;
    copy.data = take(lanes * samples * stride * precision_bytes(copy.precision));
    const Extent extent{lanes, samples, extent_.tangent && lanes > 1};
    MoveTask task{{extent, operand, copy}, step, 0, clock()};
    if (written) task = {{extent, copy, operand}, 0, step, clock()};
    regime.moves.push_back({position, task});
    operand = copy;
}

std::int64_t Tile::build(Regime& regime) {
    const ProgramSpec& spec = program_.spec();
    const auto add = [&](int value, bool written) {
        regime.operands.push_back({});
        const std::size_t position = regime.operands.size() - 1;
        regime.operands[position] = operand_of(regime, value, position, written);
        return position;
    };
    for (const NodeSpec& node : spec.nodes) {
        regime.begins.push_back(regime.operands.size());
        for (const int input : node.inputs) add(input, false);
        for (const int output : node.outputs) add(output, true);
    }
    regime.begins.push_back(regime.operands.size());
    regime.output = add(spec.output, false);
    for (const StateSpec& state : spec.states) regime.next.push_back(add(state.next, false));

    std::int64_t scratch = 0;
    for (std::size_t index = 0; index < spec.nodes.size(); ++index) {
        const NodeSpec& node = spec.nodes[index];
        const std::span operands(regime.operands.data() + regime.begins[index],
                                 node.inputs.size() + node.outputs.size());
        Frame frame{};
        frame.kernels = &program_.kernels();
        frame.device = place_->device();
        frame.clock = clock();
        frame.in = operands.first(node.inputs.size());
        frame.out = operands.subspan(node.inputs.size());
        const bool once = is_shared(frame.out[0]);
        frame.extent = {once ? 1 : extent_.lanes, extent_.samples, extent_.tangent && !once};
        frame.panels.shared = program_.panels(index);
        if (const int packed = program_.packed_constant(index); packed >= 0 && place_->device()) {
            frame.panels.shared = constant(packed);
        }
        if (!panel_lanes_[index].empty()) frame.panels.lanes = panel_lanes_[index].data();
        scratch = std::max(scratch, program_.op(index).scratch_bytes(frame));
        regime.frames.push_back(frame);
    }
    for (const Strip& strip : program_.strips().strips) {
        uncut_.reserve(regime.begins[at(strip.end)] - regime.begins[at(strip.first)]);
    }
    return scratch;
}

}  // namespace tqs
