#include "rollout/cost.h"

#include <algorithm>

namespace tqs {
namespace {

// Of an element that no product computes: loads, a handful of instructions, perhaps an exponential.
constexpr double kElement = 32;
// Of starting a node: some 100 ns.
constexpr double kStart = 4000;
// Rows below which a product is bound by reading its constant.
constexpr double kRows = 8;

struct Work {
    double each;  // multiply-adds per lane and sample
    double rows;  // of the product with a packed constant; 0: there is none
};

double elements(const ValueSpec& value) {
    double count = 1;
    for (const std::int64_t size : value.sizes) count *= static_cast<double>(size);
    return count;
}

Work work_of(const Program& program, std::size_t node) {
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
    return {out * kElement, 0};
}

}  // namespace

TileCost::TileCost(const Program& program, std::vector<int> changed, const std::vector<bool>& seeded,
                   std::int64_t steps) {
    const ProgramSpec& spec = program.spec();
    const Sharing sharing = share(program, changed, seeded);
    const auto buffer_of = [&](int value) {
        return spec.values[static_cast<std::size_t>(value)].buffer;
    };
    for (std::size_t node = 0; node < spec.nodes.size(); ++node) {
        const NodeSpec& of = spec.nodes[node];
        const Work work = work_of(program, node);
        const int packed = program.op(node).packed_input();
        const bool variant =
            packed >= 0 && std::find(changed.begin(), changed.end(),
                                     buffer_of(of.inputs[static_cast<std::size_t>(packed)])) != changed.end();
        const double least = work.rows > 0 ? kRows / work.rows : 0;
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
        total += node.times * (kStart + node.work * products * std::max(units, node.least));
    }
    return total;
}

}  // namespace tqs
