#include "rollout/tile.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace tqs {
namespace {

std::int64_t aligned(std::int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// Of its memory that streamed constants pass through: one is read while the other is filled.
constexpr std::size_t kSlots = 2;

std::size_t at(int index) {
    return static_cast<std::size_t>(index);
}

// The rows of a state leaf: `row` bytes of each, `pitch` bytes apart, of which the first `shift` have slid out.
struct LeafRows {
    std::int64_t rows, row, pitch, shift;
};

LeafRows rows_of(const StateSpec& state, const BufferSpec& buffer, std::int64_t samples, std::int64_t slid) {
    const std::int64_t item = precision_bytes(buffer.precision);
    if (state.slide == 0) return {samples, buffer.elements * item, buffer.elements * item, 0};
    return {samples * state.outer, state.length * state.inner * item, state.pitch * state.inner * item,
            slid * state.inner * item};
}

}  // namespace

Tile::Tile(const Program& program, std::shared_ptr<Place> place, Extent extent, LaneConstants constants,
           std::vector<InputSeries> inputs, std::vector<bool> seeded, const Residence* residence)
    : program_(program),
      place_(std::move(place)),
      extent_(extent),
      constants_(std::move(constants)),
      inputs_(std::move(inputs)),
      residence_(residence) {
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
    stream_constants();
    pack_constants();
    allocate();
    std::int64_t scratch = build(later_);
    if (first_.shared != later_.shared) scratch = std::max(scratch, build(first_));
    char* const memory = take(scratch);  // regimes run one after the other
    for (Regime* regime : {&first_, &later_}) {
        for (Frame& frame : regime->frames) frame.scratch = memory;
    }
}

char* Tile::take(std::int64_t bytes) {
    memory_.push_back(place_->allocate(bytes));
    allocated_ += bytes;
    return memory_.back().get();
}

// The first constants are copied here, each of the others once the node that reads the one before it in its slot is
// enqueued (Tile::pass_on).
void Tile::stream_constants() {
    if (!residence_) return;
    const ProgramSpec& spec = program_.spec();
    for (std::size_t node = 0; node < spec.nodes.size(); ++node) {
        const int buffer = program_.packed_constant(node);
        if (buffer < 0 || !residence_->streams(buffer)) continue;
        const BufferSpec& constant = spec.buffers[at(buffer)];
        passing_.push_back({node, buffer, constant.elements * precision_bytes(constant.precision), nullptr});
    }
    std::int64_t largest = 0;
    for (const Passing& passing : passing_) largest = std::max(largest, passing.bytes);
    const std::size_t slots = std::min(kSlots, passing_.size());
    char* memory[kSlots] = {};
    for (std::size_t slot = 0; slot < slots; ++slot) memory[slot] = take(largest);
    for (std::size_t i = 0; i < passing_.size(); ++i) passing_[i].to = memory[i % kSlots];
    for (auto& [buffer, lanes] : constants_) {
        const void* before = spec.buffers[at(buffer)].data;
        std::replace(lanes.begin(), lanes.end(), before, constant(buffer));
    }
    if (!passing_.empty()) feed_ = place_->device()->feed(static_cast<int>(passing_.size()));
    for (std::size_t i = 0; feed_ && i < slots; ++i) copy_constant(i);
}

// Where the lanes without a variant of their own read a constant.
const void* Tile::constant(int buffer) const {
    for (const Passing& passing : passing_) {
        if (passing.buffer == buffer) return passing.to;
    }
    return residence_ ? residence_->data(buffer) : program_.spec().buffers[at(buffer)].data;
}

void Tile::copy_constant(std::size_t passing) {
    const Passing& copied = passing_[passing];
    feed_->copy(static_cast<int>(passing), copied.to, program_.spec().buffers[at(copied.buffer)].data, copied.bytes);
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
        if (place_->device()) {
            panel_lanes_[node] = found->second;
            continue;
        }
        std::map<const void*, const void*> done{{spec.buffers[at(buffer)].data, program_.panels(node)},
                                                {nullptr, nullptr}};
        for (const void* data : found->second) {
            const auto [entry, fresh] = done.try_emplace(data, nullptr);
            if (fresh) {
                char* packed = take(op.packed_bytes(program_.kernels()));
                op.pack(program_.kernels(), data, packed);
                entry->second = packed;
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
    arena_ = take(bytes(program_, extent_));
    char* position = arena_ + extent_.lanes * extent_.samples * program_.arena_bytes();
    std::int64_t window = 0;
    for (const StateSpec& state : spec.states) {
        const BufferSpec& buffer = spec.buffers[at(state.buffer)];
        const std::int64_t size =
            extent_.lanes * extent_.samples * aligned(buffer.elements * precision_bytes(buffer.precision));
        states_.push_back(position);
        position += size;
        if (state.slide > 0) window = std::max(window, size);
    }
    if (!place_->device()) return;
    spare_ = take(window);
    const std::int64_t start = 0;
    clock_ = place_->allocate(sizeof start);
    place_->write(clock_.get(), 0, &start, 0, sizeof start, 1);
    place_inputs();
}

// The inputs of the tile's samples, at its place.
void Tile::place_inputs() {
    const ProgramSpec& spec = program_.spec();
    for (std::size_t leaf = 0; leaf < inputs_.size(); ++leaf) {
        const BufferSpec& buffer = spec.buffers[at(spec.inputs[leaf])];
        const std::int64_t size =
            inputs_[leaf].steps * extent_.samples * buffer.elements * precision_bytes(buffer.precision);
        char* placed = take(size);
        place_->write(placed, 0, inputs_[leaf].data, 0, size, 1);
        inputs_[leaf].data = placed;
    }
}

std::int64_t Tile::state_elements(std::size_t leaf) const {
    const StateSpec& state = program_.spec().states[leaf];
    return state.slide > 0 ? state.outer * state.length * state.inner
                           : program_.spec().buffers[at(state.buffer)].elements;
}

void Tile::set_state(std::size_t leaf, std::int64_t lane, const void* data, std::int64_t lanes) {
    const StateSpec& state = program_.spec().states[leaf];
    const LeafRows of = rows_of(state, program_.spec().buffers[at(state.buffer)], extent_.samples, slid_[leaf]);
    place_->write(states_[leaf] + lane * of.rows * of.pitch + of.shift, of.pitch, data, of.row, of.row,
                  lanes * of.rows);
}

void Tile::get_state(std::size_t leaf, std::int64_t lane, void* data, std::int64_t lanes) const {
    const StateSpec& state = program_.spec().states[leaf];
    const LeafRows of = rows_of(state, program_.spec().buffers[at(state.buffer)], extent_.samples, slid_[leaf]);
    if (!later_.shared[at(state.buffer)]) {
        const char* const first = states_[leaf] + lane * of.rows * of.pitch + of.shift;
        return place_->read(data, of.row, first, of.pitch, of.row, lanes * of.rows);
    }
    for (std::int64_t end = lane + lanes; lane < end; ++lane) {
        if (extent_.tangent && lane > 0) {
            std::memset(data, 0, static_cast<std::size_t>(of.rows * of.row));
        } else {
            place_->read(data, of.row, states_[leaf] + of.shift, of.pitch, of.row, of.rows);
        }
        data = static_cast<char*>(data) + of.rows * of.row;
    }
}

// All lanes of a leaf where windows do not walk: on a device.
Operand Tile::leaf_operand(std::size_t leaf) const {
    const StateSpec& state = program_.spec().states[leaf];
    const BufferSpec& buffer = program_.spec().buffers[at(state.buffer)];
    const bool slides = state.slide > 0;
    Operand operand{};
    operand.precision = buffer.precision;
    operand.rank = 2;
    operand.sizes[0] = slides ? state.outer : 1;
    operand.sizes[1] = slides ? state.length * state.inner : buffer.elements;
    operand.strides[0] = slides ? state.pitch * state.inner : 0;
    operand.strides[1] = 1;
    operand.sample_stride = buffer.elements;
    operand.lane_stride = buffer.elements * extent_.samples;
    operand.data = states_[leaf];
    return operand;
}

void Tile::get_lanes(std::size_t leaf, const Operand& out) const {
    Operand lanes = leaf_operand(leaf), target = lanes;
    if (later_.shared[at(program_.spec().states[leaf].buffer)]) lanes.lane_stride = 0;
    target.precision = out.precision;
    target.strides[0] = lanes.sizes[1];
    target.sample_stride = out.sample_stride;
    target.lane_stride = out.lane_stride;
    target.data = out.data;
    place_->within([&] { copy(extent_.lanes, lanes, target); });
}

void Tile::set_tangents(std::size_t leaf, const Operand& from) {
    Operand lanes = leaf_operand(leaf), source = lanes;
    lanes.data = states_[leaf] + lanes.lane_stride * precision_bytes(lanes.precision);
    source.precision = from.precision;
    source.strides[0] = lanes.sizes[1];
    source.sample_stride = from.sample_stride;
    source.lane_stride = from.lane_stride;
    source.data = from.data;
    place_->within([&] { copy(extent_.lanes - 1, source, lanes); });
}

}  // namespace tqs
