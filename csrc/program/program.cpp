#include "program/program.h"

#include <algorithm>

#include "backend/backend.h"
#include "core/check.h"

namespace tqs {
namespace {

constexpr const char* kName = "Program";

template <class T>
bool is_index(int index, const std::vector<T>& items) {
    return index >= 0 && static_cast<std::size_t>(index) < items.size();
}

std::int64_t elements(const ValueSpec& value) {
    std::int64_t count = 1;
    for (const std::int64_t size : value.sizes) count *= size;
    return count;
}

}  // namespace

Program::Program(ProgramSpec spec, int device, bool here)
    : spec_(std::move(spec)),
      device_(device),
      here_(here),
      kernels_(device == kHost ? &active_table().program : &cuda::program_kernels()) {
    check_indices();
    check_views();
    prepack_weights();
    make_ops();
    strips_ = device_ == kHost ? find_strips(spec_, ops_) : no_strips(spec_);
    plan();
}

std::shared_ptr<Place> Program::place(std::uintptr_t stream) const {
    if (device_ != kHost) return cuda::open(device_, stream);
    return {&host(), [](Place*) {}};
}

bool Program::is_kept(int buffer) const {
    return std::any_of(spec_.states.begin(), spec_.states.end(),
                       [&](const StateSpec& state) { return state.buffer == buffer && state.next == -1; });
}

void Program::check_indices() const {
    for (const BufferSpec& buffer : spec_.buffers) {
        require(device_ != kHost || precision_bytes(buffer.precision) > 2, kName,
                "values of 16 bits are computed on a GPU only; move the module there with .to(\"cuda\"), or convert it "
                "with .float()");
        require(buffer.elements >= 0, kName, "a buffer has ", buffer.elements, " elements");
        require((buffer.kind == BufferKind::constant) == (buffer.data != nullptr), kName,
                "constants, and only they, have data");
    }
    for (const ValueSpec& value : spec_.values) {
        require(is_index(value.buffer, spec_.buffers), kName, "a value names no buffer");
    }
    for (const NodeSpec& node : spec_.nodes) {
        for (const int input : node.inputs) {
            require(input == -1 || is_index(input, spec_.values), kName, node.origin, ": an input names no value");
        }
        for (const int output : node.outputs) {
            require(is_index(output, spec_.values), kName, node.origin, ": an output names no value");
            const bool arena = buffer_of(output).kind == BufferKind::arena;
            require(arena || is_kept(spec_.values[static_cast<std::size_t>(output)].buffer), kName, node.origin,
                    ": an output is neither in the arena nor in a state that nodes write");
        }
    }
    for (const int input : spec_.inputs) {
        require(
            is_index(input, spec_.buffers) && spec_.buffers[static_cast<std::size_t>(input)].kind == BufferKind::input,
            kName, "an input names no input buffer");
    }
    require(is_index(spec_.output, spec_.values), kName, "the output names no value");
    for (const StateSpec& state : spec_.states) {
        require(is_index(state.buffer, spec_.buffers) &&
                    spec_.buffers[static_cast<std::size_t>(state.buffer)].kind == BufferKind::state,
                kName, "a state names no state buffer");
        require(state.next == -1 || is_index(state.next, spec_.values), kName, "a state is followed by no value");
        if (state.next == -1) continue;
        const BufferSpec& buffer = spec_.buffers[static_cast<std::size_t>(state.buffer)];
        const std::int64_t next = elements(spec_.values[static_cast<std::size_t>(state.next)]);
        if (state.slide == 0) {
            require(next == buffer.elements, kName, "a state has ", buffer.elements, " elements and is followed by ",
                    next);
            require(buffer_of(state.next).kind != BufferKind::state, kName,
                    "a state is followed by a view of a state; copy it first");
        } else {
            require(state.slide > 0 && state.slide <= state.length && state.pitch >= state.length + state.slide, kName,
                    "a sliding state of length ", state.length, " and pitch ", state.pitch, " cannot slide by ",
                    state.slide);
            const std::vector<std::int64_t> rows = {state.outer, state.slide, state.inner};
            require(spec_.values[static_cast<std::size_t>(state.next)].sizes == rows &&
                        buffer.elements == state.outer * state.pitch * state.inner,
                    kName, "a sliding state does not fit its buffer or the values that join it");
        }
    }
}

void Program::check_views() const {
    for (const ValueSpec& value : spec_.values) {
        require(value.sizes.size() == value.strides.size() && value.sizes.size() <= kMaxRank, kName,
                "a value has more than ", kMaxRank, " axes");
        std::int64_t last = value.offset;
        bool empty = false;
        for (std::size_t axis = 0; axis < value.sizes.size(); ++axis) {
            require(value.sizes[axis] >= 0 && value.strides[axis] >= 0, kName, "a value has a negative size or stride");
            empty = empty || value.sizes[axis] == 0;
            last += (value.sizes[axis] - 1) * value.strides[axis];
        }
        require(value.step == 0 || (value.step > 0 && spec_.longest > 0), kName,
                "a view moves on in a program without a longest rollout");
        last += value.step * (spec_.longest - 1) * (value.step > 0);
        require(!empty, kName, "a value is empty");
        std::int64_t available = spec_.buffers[static_cast<std::size_t>(value.buffer)].elements;
        for (const StateSpec& state : spec_.states) {
            // A sliding state is read at most pitch - length positions further on.
            if (state.slide > 0 && state.buffer == value.buffer) {
                available -= (state.pitch - state.length) * state.inner;
            }
        }
        require(value.offset >= 0 && last < available, kName, "a view leaves its buffer");
    }
}

void Program::prepack_weights() {
    if (device_ != kHost && !spec_.packed.empty()) keeper_ = cuda::open(device_, 0);
    for (const PackedView& weight : spec_.packed) {
        if (keeper_) {
            check_packed("Program", weight);
            const std::int64_t bytes = cuda::prepacked_bytes(weight);
            placed_.push_back(keeper_->allocate(bytes));
            keeper_->prepack(weight, placed_.back().get());
            packed_.push_back({weight, reinterpret_cast<const std::uint8_t*>(placed_.back().get())});
            packed_bytes_ += bytes;
            continue;
        }
        prepared_.push_back(prepack(weight));
        packed_.push_back({weight, prepared_.back()->panels.get()});
        packed_bytes_ += active_table().prepacked_bytes(weight);
    }
}

int Program::packed_constant(std::size_t node) const {
    const int input = ops_[node]->packed_input();
    return input < 0 ? -1
                     : spec_.values[static_cast<std::size_t>(spec_.nodes[node].inputs[static_cast<std::size_t>(input)])]
                           .buffer;
}

void Program::make_ops() {
    for (const NodeSpec& node : spec_.nodes) {
        std::vector<const ValueSpec*> inputs, outputs;
        std::vector<Precision> input_precisions, output_precisions;
        for (const int input : node.inputs) {
            inputs.push_back(input < 0 ? nullptr : &spec_.values[static_cast<std::size_t>(input)]);
            input_precisions.push_back(input < 0 ? Precision::float32 : buffer_of(input).precision);
        }
        for (const int output : node.outputs) {
            outputs.push_back(&spec_.values[static_cast<std::size_t>(output)]);
            output_precisions.push_back(buffer_of(output).precision);
        }
        ops_.push_back(make_op({node, inputs, outputs, input_precisions, output_precisions, packed_}));
        const Op& op = *ops_.back();
        const void* panels = nullptr;
        if (op.packed_input() >= 0) {
            const int value = node.inputs[static_cast<std::size_t>(op.packed_input())];
            require(buffer_of(value).kind == BufferKind::constant, kName, node.origin, ": expected a constant weight");
            panels = buffer_of(value).data;
            if (device_ == kHost) {
                packed_constants_.push_back(allocate_aligned(op.packed_bytes(*kernels_)));
                op.pack(*kernels_, panels, packed_constants_.back().get());
                panels = packed_constants_.back().get();
            }
        }
        panels_.push_back(panels);
    }
}

void Program::plan() {
    const int nodes = static_cast<int>(spec_.nodes.size());
    std::vector<Life> lives(spec_.buffers.size(), Life{0, nodes, -1});
    const auto life_of = [&](int value) -> Life& {
        return lives[static_cast<std::size_t>(spec_.values[static_cast<std::size_t>(value)].buffer)];
    };
    for (int node = 0; node < nodes; ++node) {
        const NodeSpec& spec = spec_.nodes[static_cast<std::size_t>(node)];
        for (const int output : spec.outputs) {
            life_of(output).first = std::min(life_of(output).first, node);
            life_of(output).last = std::max(life_of(output).last, node);
        }
        for (const int input : spec.inputs) {
            if (input < 0 || buffer_of(input).kind != BufferKind::arena) continue;
            require(life_of(input).first < node, kName, spec.origin, ": reads a value before it is written");
            life_of(input).last = node;
        }
    }
    // A strip comes back to its first node after its last.
    for (const Strip& strip : strips_.strips) {
        for (int node = strip.first; node < strip.end; ++node) {
            const NodeSpec& spec = spec_.nodes[static_cast<std::size_t>(node)];
            for (const int input : spec.inputs) {
                if (input < 0 || buffer_of(input).kind != BufferKind::arena) continue;
                life_of(input).last = std::max(life_of(input).last, strip.end - 1);
            }
            for (const int output : spec.outputs) {
                life_of(output).first = std::min(life_of(output).first, strip.first);
                life_of(output).last = std::max(life_of(output).last, strip.end - 1);
            }
        }
    }
    // What leaves the step is read after its last node.
    life_of(spec_.output).last = nodes;
    for (const StateSpec& state : spec_.states) {
        if (state.next >= 0) life_of(state.next).last = nodes;
    }

    std::vector<int> arena;
    std::vector<Life> planned;
    for (std::size_t index = 0; index < spec_.buffers.size(); ++index) {
        const BufferSpec& buffer = spec_.buffers[index];
        if (buffer.kind != BufferKind::arena || lives[index].last < 0) continue;
        lives[index].bytes = room(static_cast<int>(index)) * precision_bytes(buffer.precision);
        arena.push_back(static_cast<int>(index));
        planned.push_back(lives[index]);
    }
    const ArenaPlan result = plan_arena(planned);
    offsets_.assign(spec_.buffers.size(), 0);
    for (std::size_t i = 0; i < arena.size(); ++i) offsets_[static_cast<std::size_t>(arena[i])] = result.offsets[i];
    arena_bytes_ = result.bytes;
}

std::int64_t Program::state_bytes() const {
    std::int64_t bytes = 0;
    for (const StateSpec& state : spec_.states) {
        const BufferSpec& buffer = spec_.buffers[static_cast<std::size_t>(state.buffer)];
        bytes += (buffer.elements * precision_bytes(buffer.precision) + 63) / 64 * 64;
    }
    return bytes;
}

std::int64_t Program::product_rows() const {
    std::int64_t rows = 1, largest = 0;
    for (std::size_t node = 0; node < ops_.size(); ++node) {
        const ProductShape product = ops_[node]->product();
        if (product.width == 0) continue;
        const ValueSpec& out = spec_.values[static_cast<std::size_t>(spec_.nodes[node].outputs[0])];
        const std::int64_t work = elements(out) * product.depth;
        if (work <= largest) continue;
        largest = work;
        rows = elements(out) / product.width;
    }
    return rows;
}

}  // namespace tqs
