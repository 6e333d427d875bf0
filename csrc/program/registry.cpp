#include "program/registry.h"

#include <algorithm>
#include <array>
#include <string>

#include "core/check.h"

namespace tqs {
namespace {

struct Row {
    const char* kind;
    std::unique_ptr<Op> (*make)(const OpContext&);
};

// Sorted by name.
constexpr std::array kRows = {
    Row{"attention", ops::make_attention},
    Row{"convolution", ops::make_convolution},
    Row{"copy", ops::make_copy},
    Row{"elementwise", ops::make_elementwise},
    Row{"gather", ops::make_gather},
    Row{"linear", ops::make_linear},
    Row{"matmul", ops::make_matmul},
    Row{"normalize", ops::make_normalize},
    Row{"packed_linear", ops::make_packed_linear},
    Row{"reduce", ops::make_reduce},
    Row{"remap", ops::make_remap},
    Row{"running_extreme", ops::make_running_extreme},
    Row{"scan", ops::make_scan},
    Row{"softmax", ops::make_softmax},
    Row{"top_k", ops::make_top_k},
};

constexpr auto kNames = [] {
    std::array<const char*, kRows.size()> names{};
    std::transform(kRows.begin(), kRows.end(), names.begin(), [](const Row& row) { return row.kind; });
    return names;
}();

template <class T>
const std::vector<T>* find(const std::map<std::string, std::vector<T>>& attributes, const char* name) {
    const auto found = attributes.find(name);
    return found == attributes.end() ? nullptr : &found->second;
}

}  // namespace

void Op::pack(const ProgramKernels&, const void*, void*) const {}

void OpContext::require(bool holds, const char* text) const {
    tqs::require(holds, node.kind, node.origin, ": ", text);
}

std::span<const std::int64_t> OpContext::integers(const char* name) const {
    const auto* found = find(node.ints, name);
    tqs::require(found, node.kind, node.origin, ": attribute '", name, "' is missing");
    return *found;
}

std::span<const double> OpContext::numbers(const char* name) const {
    const auto* found = find(node.floats, name);
    tqs::require(found, node.kind, node.origin, ": attribute '", name, "' is missing");
    return *found;
}

std::int64_t OpContext::integer(const char* name) const {
    const auto values = integers(name);
    tqs::require(values.size() == 1, node.kind, node.origin, ": attribute '", name, "' must be one number");
    return values[0];
}

std::int64_t OpContext::integer(const char* name, std::int64_t otherwise) const {
    return find(node.ints, name) ? integer(name) : otherwise;
}

double OpContext::number(const char* name, double otherwise) const {
    const auto* found = find(node.floats, name);
    if (!found) return otherwise;
    tqs::require(found->size() == 1, node.kind, node.origin, ": attribute '", name, "' must be one number");
    return found->front();
}

std::unique_ptr<Op> make_op(const OpContext& context) {
    for (const Row& row : kRows) {
        if (context.node.kind == row.kind) return row.make(context);
    }
    throw ArgumentError(
        message("Program", context.node.origin, ": no op is called '", context.node.kind, "'; use engine=\"torch\""));
}

std::span<const char* const> list_ops() {
    return kNames;
}

}  // namespace tqs
