#include "program/strips.h"

#include <algorithm>
#include <map>
#include <optional>

namespace tqs {
namespace {

// What the rows that a strip runs at a time may take of the caches, per lane and sample.
constexpr std::int64_t kStripBytes = 128 * 1024;
// Fewer rows would not fill a product.
constexpr std::int64_t kFewestRows = 16;

// Where the rows of a buffer lie: row r in elements [r * pitch, (r + 1) * pitch) + window * pitch.
struct Rows {
    std::int64_t pitch, window;
    bool operator==(const Rows&) const = default;
};

std::size_t at(int index) {
    return static_cast<std::size_t>(index);
}

// The first axis with more than one position; -1: there is none.
int row_axis(const ValueSpec& value) {
    for (std::size_t axis = 0; axis < value.sizes.size(); ++axis) {
        if (value.sizes[axis] > 1) return static_cast<int>(axis);
    }
    return -1;
}

// Nothing where a row of the value reaches into another.
std::optional<Rows> rows_of(const ValueSpec& value, const Cut& cut) {
    const std::int64_t stride = value.strides[at(cut.axis)];
    std::int64_t last = value.offset + (cut.each - 1) * stride;
    for (std::size_t axis = 0; axis < value.sizes.size(); ++axis) {
        if (axis != at(cut.axis)) last += (value.sizes[axis] - 1) * value.strides[axis];
    }
    const std::int64_t pitch = cut.each * stride;
    if (pitch == 0 || value.offset / pitch != last / pitch) return std::nullopt;
    return Rows{pitch, value.offset / pitch};
}

class Finder {
  public:
    Finder(const ProgramSpec& spec, const std::vector<std::unique_ptr<Op>>& ops) : spec_(spec), ops_(ops) {}

    Strips find() {
        Strips result = no_strips(spec_);
        const int nodes = static_cast<int>(spec_.nodes.size());
        for (int node = 0; node < nodes;) {
            Strip best{node, node, 0, 0};
            for (const std::int64_t rows : candidates(node)) {
                const int end = extend(node, rows);
                if (end > best.end) best = {node, end, rows, 0};
            }
            node = std::max(best.end, node + 1);
            if (best.end < best.first + 2) continue;
            extend(best.first, best.rows);
            best.some = rows_at_a_time(best);
            if (best.some == best.rows) continue;
            for (int i = best.first; i < best.end; ++i) result.cuts[at(i)] = cuts_[at(i - best.first)];
            make_local(best, result.local_elements);
            result.strips.push_back(best);
        }
        return result;
    }

  private:
    // Rows of a strip that begins at a node: its own, or those of the product after it (its own may be flat).
    std::vector<std::int64_t> candidates(int first) const {
        std::vector<std::int64_t> rows;
        for (int node = first; node < static_cast<int>(spec_.nodes.size()); ++node) {
            const ValueSpec& out = spec_.values[at(spec_.nodes[at(node)].outputs[0])];
            const bool product = ops_[at(node)]->product().width > 0;
            const int axis = row_axis(out);
            if (axis >= 0 && (product || node == first)) rows.push_back(out.sizes[at(axis)]);
            if (product) break;
        }
        return rows;
    }

    // One past the last node of the strip of `rows` rows that begins at `first`; leaves its cuts and rows behind.
    int extend(int first, std::int64_t rows) {
        cuts_.clear();
        written_.clear();
        int node = first;
        while (node < static_cast<int>(spec_.nodes.size()) && add(node, rows)) ++node;
        return node;
    }

    bool add(int node, std::int64_t rows) {
        const NodeSpec& of = spec_.nodes[at(node)];
        const ValueSpec& out = spec_.values[at(of.outputs[0])];
        const int axis = row_axis(out);
        if (axis < 0 || out.sizes[at(axis)] % rows != 0 || !ops_[at(node)]->separable(axis)) return false;
        const Cut cut{axis, out.sizes[at(axis)] / rows};
        std::vector<Cut> cuts;
        for (std::size_t i = 0; i < of.inputs.size(); ++i) {
            cuts.push_back({});
            if (of.inputs[i] < 0) continue;
            const ValueSpec& in = spec_.values[at(of.inputs[i])];
            const auto found = written_.find(in.buffer);
            if (!ops_[at(node)]->follows(static_cast<int>(i)) || in.sizes[at(axis)] == 1) {
                if (found != written_.end()) return false;
                continue;
            }
            // A constant may have variants, each with an address of its own.
            const bool constant = spec_.buffers[at(in.buffer)].kind == BufferKind::constant;
            if (constant && in.strides[at(axis)] != 0) return false;
            cuts.back() = cut;
            if (found != written_.end() && rows_of(in, cut) != found->second) return false;
        }
        std::map<int, Rows> written = written_;
        for (const int output : of.outputs) {
            const ValueSpec& value = spec_.values[at(output)];
            if (spec_.buffers[at(value.buffer)].kind != BufferKind::arena || value.step != 0) return false;
            const auto own = rows_of(value, cut);
            if (!own || written.try_emplace(value.buffer, *own).first->second != *own) return false;
            cuts.push_back(cut);
        }
        written_ = std::move(written);
        cuts_.push_back(std::move(cuts));
        return true;
    }

    std::int64_t rows_at_a_time(const Strip& strip) const {
        std::int64_t bytes = 0;
        for (const auto& [buffer, rows] : written_) {
            bytes += rows.pitch * precision_bytes(spec_.buffers[at(buffer)].precision);
        }
        const std::int64_t some = std::clamp(kStripBytes / std::max<std::int64_t>(bytes, 1), kFewestRows, strip.rows);
        const std::int64_t pieces = (strip.rows + some - 1) / some;
        return (strip.rows + pieces - 1) / pieces;
    }

    // Buffers that nothing but the strip uses, whole rows from the first on.
    void make_local(const Strip& strip, std::vector<std::int64_t>& local) const {
        for (const auto& [buffer, rows] : written_) {
            bool inside = rows.window == 0 && rows.pitch * strip.rows == spec_.buffers[at(buffer)].elements;
            const auto elsewhere = [&](int value) {
                return value >= 0 && spec_.values[at(value)].buffer == buffer;
            };
            inside = inside && !elsewhere(spec_.output);
            for (const StateSpec& state : spec_.states) inside = inside && !elsewhere(state.next);
            for (int node = 0; node < static_cast<int>(spec_.nodes.size()); ++node) {
                if (node == strip.first) node = strip.end;
                if (node == static_cast<int>(spec_.nodes.size())) break;
                for (const int value : spec_.nodes[at(node)].inputs) inside = inside && !elsewhere(value);
                for (const int value : spec_.nodes[at(node)].outputs) inside = inside && !elsewhere(value);
            }
            if (inside) local[at(buffer)] = strip.some * rows.pitch;
        }
    }

    const ProgramSpec& spec_;
    const std::vector<std::unique_ptr<Op>>& ops_;
    // Of the strip at hand.
    std::vector<std::vector<Cut>> cuts_;
    std::map<int, Rows> written_;  // buffers that it writes
};

}  // namespace

Strips no_strips(const ProgramSpec& spec) {
    Strips result;
    result.cuts.resize(spec.nodes.size());
    result.local_elements.assign(spec.buffers.size(), 0);
    return result;
}

Strips find_strips(const ProgramSpec& spec, const std::vector<std::unique_ptr<Op>>& ops) {
    return Finder(spec, ops).find();
}

}  // namespace tqs
