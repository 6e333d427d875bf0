#include "rollout/cost.h"

#include <algorithm>

namespace tqs {
namespace {

// What a place can do, in multiply-adds.
struct Machine {
    double element;  // an element that no product computes: loads, a handful of instructions, perhaps an exponential
    double start;    // of a node
    double rows;     // below which a product is bound by reading its constant
};

// A core starts a node in some 100 ns.
constexpr Machine kCore{32, 4000, 8};
// A device of 3e13 multiply-adds and 4.8e12 bytes a second, whose launches take 3 us: elements take 12 bytes,
// weights 4.
constexpr Machine kDevice{75, 1e8, 25};

struct Work {
    double each;  // multiply-adds per lane and sample
    double rows;  // of the product with a packed constant; 0: there is none
};

double elements(const ValueSpec& value) {
    double count = 1;
    for (const std::int64_t size : value.sizes) count *= static_cast<double>(size);
    return count;
}

Work work_of(const Program& program, const Machine& machine, std::size_t node) {
    const ProgramSpec& spec = program.spec();
    const NodeSpec& of = spec.nodes[node];
    const auto value = [&](int index) -> const ValueSpec& {
        return spec.values[static_cast<std::size_t>(index)];
    };
    double out = 0;
    for (const int output : of.outputs) out += elements(value(output));
    const ProductShape product = program.op(node).product();
    if (product.width > 0) return {out * static_cast<double>(product.depth), out / static_cast<double>(product.width)};
    if (of.kind == "matmul") return {out * static_cast<double>(value(of.inputs[0]).sizes.back()), 0};
    if (of.kind == "attention") {
        const ValueSpec& keys = value(of.inputs[1]);
        return {2 * out * static_cast<double>(keys.sizes[keys.sizes.size() - 2]), 0};
    }
    return {out * machine.element, 0};
}

}  // namespace

TileCost::TileCost(const Program& program, std::vector<int> changed, const std::vector<bool>& seeded,
                   std::int64_t steps) {
    const ProgramSpec& spec = program.spec();
    const Sharing sharing = share(program, changed, seeded);
    const Machine& machine = program.device() == Program::kHost ? kCore : kDevice;
    start_ = machine.start;
    const auto buffer_of = [&](int value) {
        return spec.values[static_cast<std::size_t>(value)].buffer;
    };
    for (std::size_t node = 0; node < spec.nodes.size(); ++node) {
        const NodeSpec& of = spec.nodes[node];
        const Work work = work_of(program, machine, node);
        const int packed = program.op(node).packed_input();
        const bool variant =
            packed >= 0 && std::find(changed.begin(), changed.end(),
                                     buffer_of(of.inputs[static_cast<std::size_t>(packed)])) != changed.end();
        const double least = work.rows > 0 ? machine.rows / work.rows : 0;
        const auto out = static_cast<std::size_t>(buffer_of(of.outputs[0]));
        nodes_.push_back({work.each, least, 1, sharing.first[out] != 0, variant});
        if (steps > 1) {
            nodes_.push_back({work.each, least, static_cast<double>(steps - 1), sharing.later[out] != 0, variant});
        }
    }
}

double TileCost::operator()(std::int64_t lanes, std::int64_t samples) const {
    const auto L = static_cast<double>(lanes), S = static_cast<double>(samples);
    double total = 0;
    for (const Node& node : nodes_) {
        const double products = !node.shared && node.variant ? L : 1;
        const double units = (node.shared ? S : L * S) / products;
        total += node.times * (start_ + node.work * products * std::max(units, node.least));
    }
    return total;
}

}  // namespace tqs
