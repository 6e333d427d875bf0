// Attention outside programs: one task over arrays that the caller owns, its units spread over threads.
#include <pybind11/stl.h>

#include <algorithm>

#include "backend/backend.h"
#include "bindings/bindings.h"
#include "core/aligned.h"
#include "core/check.h"
#include "core/parallel.h"

namespace py = pybind11;

namespace tqs {
namespace {

using Sizes = std::vector<std::int64_t>;

// Queries of one unit of work. A fixed number, so that results do not depend on the threads.
constexpr std::int64_t kUnitQueries = 128;

// One array per lane (0: a tangent that is zero; none at all: absent), of equal strides [..., row, column].
struct LaneArrays {
    std::vector<std::uintptr_t> lanes;
    Sizes strides;
};

struct Problem {
    LaneArrays q, k, v, mask, out;
    Sizes leading;
    std::int64_t queries, keys, depth, width;
    int precision;
    double scale;
    bool causal;
    std::int64_t causal_offset;
};

void check(const Problem& p) {
    constexpr const char* kName = "attention";
    require(p.precision >= 0 && p.precision < kPrecisions, kName, "unknown precision ", p.precision);
    require(p.queries >= 0 && p.keys >= 0 && p.depth >= 0 && p.width >= 0, kName, "sizes must not be negative");
    require(!p.out.lanes.empty(), kName, "expected an output");
    for (const LaneArrays* arrays : {&p.q, &p.k, &p.v, &p.mask, &p.out}) {
        if (arrays == &p.mask && arrays->lanes.empty()) continue;
        require(arrays->lanes.size() == p.out.lanes.size(), kName, "expected ", p.out.lanes.size(), " lanes, got ",
                arrays->lanes.size());
        require(arrays->strides.size() == p.leading.size() + 2, kName, "expected ", p.leading.size() + 2,
                " strides, got ", arrays->strides.size());
        require(arrays->lanes[0] != 0, kName, "an array has no address");
    }
    require(std::find(p.out.lanes.begin(), p.out.lanes.end(), 0u) == p.out.lanes.end(), kName,
            "an output has no address");
}

// The last two axes of `arrays` at `head` and `first_row`. `lanes` keeps the addresses.
Operand view(const LaneArrays& arrays, const Problem& p, std::int64_t head, std::int64_t first_row, std::int64_t rows,
             std::int64_t columns, std::vector<void*>& lanes) {
    Operand operand{};
    if (arrays.lanes.empty()) return operand;
    const std::size_t leading = p.leading.size();
    std::int64_t offset = first_row * arrays.strides[leading];
    for (std::size_t axis = leading; axis-- > 0;) {
        offset += head % p.leading[axis] * arrays.strides[axis];
        head /= p.leading[axis];
    }
    operand.precision = static_cast<Precision>(p.precision);
    operand.rank = 2;
    operand.sizes[0] = rows;
    operand.sizes[1] = columns;
    operand.strides[0] = arrays.strides[leading];
    operand.strides[1] = arrays.strides[leading + 1];
    lanes.clear();
    for (const std::uintptr_t lane : arrays.lanes) {
        lanes.push_back(lane ? at_address<char>(lane) + offset * precision_bytes(operand.precision) : nullptr);
    }
    operand.data = lanes[0];
    operand.lanes = lanes.data();
    return operand;
}

void attention(const Problem& p, int threads) {
    check(p);
    require(p.precision <= static_cast<int>(Precision::float64), "attention", "the processor has float32 and float64");
    const AttentionKernels& kernels = active_table().program.attention[p.precision];
    std::int64_t heads = 1;
    for (const std::int64_t size : p.leading) heads *= size;
    const std::int64_t chunks = (p.queries + kUnitQueries - 1) / kUnitQueries;
    if (p.width == 0) return;
    parallel_for(heads * chunks, threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<void*> lanes[5];
        AlignedBytes scratch;
        std::int64_t available = -1;
        for (std::int64_t unit = begin; unit < end; ++unit) {
            const std::int64_t head = unit / chunks, first = unit % chunks * kUnitQueries;
            const std::int64_t rows = std::min(kUnitQueries, p.queries - first);
            const auto count = static_cast<std::int64_t>(p.out.lanes.size());
            AttentionTask task{.extent = {.lanes = count, .samples = 1, .tangent = count > 1},
                               .q = view(p.q, p, head, first, rows, p.depth, lanes[0]),
                               .k = view(p.k, p, head, 0, p.keys, p.depth, lanes[1]),
                               .v = view(p.v, p, head, 0, p.keys, p.width, lanes[2]),
                               .mask = view(p.mask, p, head, first, rows, p.keys, lanes[3]),
                               .out = view(p.out, p, head, first, rows, p.width, lanes[4]),
                               .scale = p.scale,
                               .causal = p.causal,
                               .causal_offset = p.causal_offset + first,
                               .scratch = nullptr};
            if (const std::int64_t needed = kernels.attention_scratch(task); needed > available) {
                scratch = allocate_aligned(needed);
                available = needed;
            }
            task.scratch = scratch.get();
            kernels.attention(task);
        }
    });
}

// All of it as one task on the device: axes that all operands step through in one go are one, since a task has few.
Operand whole(const LaneArrays& arrays, const Problem& p, const std::vector<std::pair<std::size_t, std::int64_t>>& axes,
              std::int64_t rows, std::int64_t columns) {
    Operand operand{};
    if (arrays.lanes.empty()) return operand;
    operand.precision = static_cast<Precision>(p.precision);
    for (const auto& [axis, size] : axes) {
        operand.sizes[operand.rank] = size;
        operand.strides[operand.rank++] = arrays.strides[axis];
    }
    const std::size_t row = p.leading.size();
    operand.sizes[operand.rank] = rows;
    operand.strides[operand.rank++] = arrays.strides[row];
    operand.sizes[operand.rank] = columns;
    operand.strides[operand.rank++] = arrays.strides[row + 1];
    operand.data = at_address<void>(arrays.lanes[0]);
    return operand;
}

LanesApart apart(const LaneArrays& arrays, std::int64_t bytes) {
    const auto& lanes = arrays.lanes;
    if (lanes.size() < 2 || lanes[1] == 0) return {nullptr, 0};
    const std::uintptr_t step = lanes.size() > 2 ? lanes[2] - lanes[1] : 0;
    for (std::size_t lane = 2; lane < lanes.size(); ++lane) {
        require(lanes[lane] - lanes[lane - 1] == step, "attention", "expected tangents at equal distances");
    }
    return {at_address<void>(lanes[1]), static_cast<std::int64_t>(step) / bytes};
}

std::int64_t attention_on_device(const Problem& p, std::uintptr_t scratch, std::int64_t scratch_bytes, int device,
                                 std::uintptr_t stream) {
    check(p);
    const LaneArrays* const operands[] = {&p.q, &p.k, &p.v, &p.mask, &p.out};
    std::vector<std::pair<std::size_t, std::int64_t>> axes;  // the innermost axis of those in one, and their size
    for (std::size_t axis = 0; axis < p.leading.size(); ++axis) {
        if (p.leading[axis] == 1) continue;
        bool merge = !axes.empty();
        for (const LaneArrays* x : operands) {
            merge = merge && (x->lanes.empty() || x->strides[axes.back().first] == x->strides[axis] * p.leading[axis]);
        }
        if (merge) {
            axes.back() = {axis, axes.back().second * p.leading[axis]};
        } else {
            axes.emplace_back(axis, p.leading[axis]);
        }
    }
    require(axes.size() + 2 <= static_cast<std::size_t>(kMaxRank), "attention", "expected at most ", kMaxRank - 2,
            " leading axes that cannot be made one, got ", axes.size(), "; make the tensors contiguous");
    LanesApart tangents[5];
    for (int k = 0; k < 5; ++k) tangents[k] = apart(*operands[k], precision_bytes(static_cast<Precision>(p.precision)));
    const auto lanes = static_cast<std::int64_t>(p.out.lanes.size());
    return cuda::attention({.extent = {.lanes = lanes, .samples = 1, .tangent = lanes > 1},
                            .q = whole(p.q, p, axes, p.queries, p.depth),
                            .k = whole(p.k, p, axes, p.keys, p.depth),
                            .v = whole(p.v, p, axes, p.keys, p.width),
                            .mask = whole(p.mask, p, axes, p.queries, p.keys),
                            .out = whole(p.out, p, axes, p.queries, p.width),
                            .scale = p.scale,
                            .causal = p.causal,
                            .causal_offset = p.causal_offset,
                            .scratch = at_address<void>(scratch),
                            .apart = tangents},
                           scratch_bytes, device, stream);
}

}  // namespace

void bind_attention(py::module_& m) {
    py::class_<LaneArrays>(m, "LaneArrays")
        .def(py::init([](std::vector<std::uintptr_t> lanes, Sizes strides) {
                 return LaneArrays{std::move(lanes), std::move(strides)};
             }),
             py::arg("lanes"), py::arg("strides"));
    py::class_<Problem>(m, "AttentionProblem")
        .def(py::init([](LaneArrays q, LaneArrays k, LaneArrays v, LaneArrays mask, LaneArrays out, Sizes leading,
                         std::int64_t queries, std::int64_t keys, std::int64_t depth, std::int64_t width, int precision,
                         double scale, bool causal, std::int64_t causal_offset) {
                 return Problem{std::move(q),       std::move(k), std::move(v), std::move(mask), std::move(out),
                                std::move(leading), queries,      keys,         depth,           width,
                                precision,          scale,        causal,       causal_offset};
             }),
             py::kw_only(), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"), py::arg("out"),
             py::arg("leading"), py::arg("queries"), py::arg("keys"), py::arg("depth"), py::arg("width"),
             py::arg("precision"), py::arg("scale"), py::arg("causal"), py::arg("causal_offset"));
    m.def("attention", &attention, py::arg("problem"), py::kw_only(), py::arg("threads"),
          py::call_guard<py::gil_scoped_release>());
    m.def("attention_cuda", &attention_on_device, py::arg("problem"), py::kw_only(), py::arg("scratch"),
          py::arg("scratch_bytes"), py::arg("device"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace tqs
