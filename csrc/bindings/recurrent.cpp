#include "quant/recurrent.h"

#include <pybind11/stl.h>

#include <utility>

#include "bindings/bindings.h"
#include "core/check.h"

namespace py = pybind11;

namespace tqs {
namespace {

using Address = std::uintptr_t;
// (weight, whether its product rounds the activations to int8) of consecutive rows. The caller's objects live until the
// call returns, so pointers into them do.
using Blocks = std::vector<std::pair<const Prepared*, bool>>;

RowBlocks row_blocks(const Blocks& blocks) {
    RowBlocks result;
    for (const auto& [prepared, int8] : blocks) {
        require(prepared, "row_blocks", "a block of a weight must not be None");
        result.push_back({prepared, int8 ? Activation::int8 : Activation::exact});
    }
    return result;
}

}  // namespace

void bind_recurrent(py::module_& m) {
    m.def(
        "multiply",
        [](const Blocks& weight, Address x, std::int64_t x_stride, std::int64_t rows, Address bias, Address y,
           int threads) {
            const RowBlocks blocks = row_blocks(weight);
            multiply(blocks, at_address<const float>(x), x_stride, rows, at_address<const float>(bias),
                     at_address<float>(y), row_count(blocks), threads);
        },
        py::arg("weight"), py::arg("x"), py::arg("x_stride"), py::arg("rows"), py::arg("bias"), py::arg("y"),
        py::arg("threads"), py::call_guard<py::gil_scoped_release>());
    m.def(
        "run_recurrent",
        [](int recurrence, std::int64_t size, bool reverse, const std::vector<std::int64_t>& batch_sizes, Address x,
           std::int64_t x_stride, const Blocks& input, Address input_bias, const Blocks& hidden, Address hidden_bias,
           const Blocks& projection, Address hidden_state, Address cell_state, Address out, int threads) {
            require(recurrence >= 0 && recurrence < kRecurrences, "recurrent", "unknown recurrence ", recurrence);
            run_recurrent({.recurrence = static_cast<Recurrence>(recurrence),
                           .size = size,
                           .reverse = reverse,
                           .batch_sizes = batch_sizes,
                           .x = at_address<const float>(x),
                           .x_stride = x_stride,
                           .input = row_blocks(input),
                           .input_bias = at_address<const float>(input_bias),
                           .hidden = row_blocks(hidden),
                           .hidden_bias = at_address<const float>(hidden_bias),
                           .projection = row_blocks(projection),
                           .hidden_state = at_address<float>(hidden_state),
                           .cell_state = at_address<float>(cell_state),
                           .out = at_address<float>(out)},
                          threads);
        },
        py::arg("recurrence"), py::arg("size"), py::arg("reverse"), py::arg("batch_sizes"), py::arg("x"),
        py::arg("x_stride"), py::arg("input"), py::arg("input_bias"), py::arg("hidden"), py::arg("hidden_bias"),
        py::arg("projection"), py::arg("hidden_state"), py::arg("cell_state"), py::arg("out"), py::arg("threads"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace tqs
