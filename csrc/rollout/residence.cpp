#include "rollout/residence.h"

#include <algorithm>

namespace tqs {
namespace {

// How often the nodes of a program, its output and its next states read each buffer, other than as the one that a node
// packs; and how many nodes pack it.
struct Readers {
    std::vector<int> packing, other;

    explicit Readers(const Program& program)
        : packing(program.spec().buffers.size()), other(program.spec().buffers.size()) {
        const ProgramSpec& spec = program.spec();
        const auto count = [&](std::vector<int>& readers, int value) {
            if (value >= 0) ++readers[static_cast<std::size_t>(spec.values[static_cast<std::size_t>(value)].buffer)];
        };
        for (std::size_t node = 0; node < spec.nodes.size(); ++node) {
            const int packed = program.op(node).packed_input();
            const std::vector<int>& inputs = spec.nodes[node].inputs;
            for (std::size_t i = 0; i < inputs.size(); ++i) {
                count(static_cast<int>(i) == packed ? packing : other, inputs[i]);
            }
        }
        count(other, spec.output);
        for (const StateSpec& state : spec.states) count(other, state.next);
    }

    bool one_node(int buffer) const {
        const auto at = static_cast<std::size_t>(buffer);
        return at >= packing.size() || (packing[at] <= 1 && other[at] == 0);
    }
};

}  // namespace

Residence::Residence(const Program& program, const Program* prologue, Place& place) : program_(program), place_(place) {
    if (!program.constants_here()) return;
    const Readers readers(program), before(prologue ? *prologue : program);
    for (int buffer = 0; buffer < static_cast<int>(program.spec().buffers.size()); ++buffer) {
        if (program.spec().buffers[static_cast<std::size_t>(buffer)].kind != BufferKind::constant) continue;
        const bool read = readers.packing[static_cast<std::size_t>(buffer)] > 0;
        if (read && readers.one_node(buffer) && before.one_node(buffer)) streamable_.insert(buffer);
    }
}

std::int64_t Residence::bytes_of(int buffer) const {
    const BufferSpec& spec = program_.spec().buffers[static_cast<std::size_t>(buffer)];
    return spec.elements * precision_bytes(spec.precision);
}

std::int64_t Residence::resident_bytes() const {
    std::int64_t bytes = 0;
    const std::vector<BufferSpec>& buffers = program_.spec().buffers;
    for (int buffer = 0; program_.constants_here() && buffer < static_cast<int>(buffers.size()); ++buffer) {
        const bool constant = buffers[static_cast<std::size_t>(buffer)].kind == BufferKind::constant;
        if (constant && !streams(buffer)) bytes += bytes_of(buffer);
    }
    return bytes;
}

std::int64_t Residence::streamed_bytes() const {
    std::int64_t bytes = 0;
    for (const int buffer : streamed_) bytes += bytes_of(buffer);
    return bytes;
}

void Residence::stream_all() {
    streamed_ = streamable_;
}

void Residence::keep(std::int64_t bytes) {
    std::vector<int> order(streamed_.begin(), streamed_.end());
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return bytes_of(a) < bytes_of(b); });
    for (const int buffer : order) {
        bytes -= bytes_of(buffer);
        if (bytes < 0) return;
        streamed_.erase(buffer);
    }
}

void Residence::bring() {
    const std::vector<BufferSpec>& buffers = program_.spec().buffers;
    for (int buffer = 0; program_.constants_here() && buffer < static_cast<int>(buffers.size()); ++buffer) {
        const BufferSpec& spec = buffers[static_cast<std::size_t>(buffer)];
        if (spec.kind != BufferKind::constant || streams(buffer)) continue;
        const std::int64_t bytes = bytes_of(buffer);
        PlaceBytes placed = place_.allocate(bytes);
        place_.write(placed.get(), 0, spec.data, 0, bytes, 1);
        placed_.emplace(buffer, std::move(placed));
    }
}

const void* Residence::data(int buffer) const {
    const auto found = placed_.find(buffer);
    return found == placed_.end() ? program_.spec().buffers[static_cast<std::size_t>(buffer)].data
                                  : found->second.get();
}

}  // namespace tqs
