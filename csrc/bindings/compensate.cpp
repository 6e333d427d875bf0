// Rounding with compensation: the shared elimination, and the two loops over rows.
#include "quant/compensate.h"

#include "bindings/bindings.h"
#include "quant/eliminate.h"

namespace py = pybind11;

namespace tqs {
namespace {

using Address = std::uintptr_t;

CompensatedWeight compensated_weight(Address weights, std::int64_t rows, std::int64_t columns, int bits,
                                     std::int64_t group_size, Address codes, Address scales, Address zeros) {
    return {.weights = {at_address<const float>(weights), rows, columns, columns},
            .bits = bits,
            .group_size = group_size,
            .packed = {at_address<std::uint8_t>(codes), at_address<std::uint16_t>(scales),
                       at_address<std::uint8_t>(zeros)}};
}

}  // namespace

void bind_compensate(py::module_& m) {
    using unlocked = py::call_guard<py::gil_scoped_release>;

    py::class_<CompensatedWeight>(m, "CompensatedWeight")
        .def(py::init(&compensated_weight), py::kw_only(), py::arg("weights"), py::arg("rows"), py::arg("columns"),
             py::arg("bits"), py::arg("group_size"), py::arg("codes"), py::arg("scales"), py::arg("zeros"));
    m.def(
        "eliminate",
        [](Address matrix, std::int64_t size, Address cost, Address sequence, Address diagonal, int threads) {
            eliminate({at_address<double>(matrix), size, at_address<const double>(cost),
                       at_address<std::int64_t>(sequence), at_address<double>(diagonal), threads});
        },
        py::kw_only(), py::arg("matrix"), py::arg("size"), py::arg("cost"), py::arg("sequence"), py::arg("diagonal"),
        py::arg("threads"), unlocked());
    m.def(
        "compensate",
        [](const CompensatedWeight& weight, Address factor, Address order, bool regroup, bool mse, Address diagonal,
           Address hessian, int sweeps, int threads) {
            compensate({weight, at_address<const double>(factor), at_address<const std::int64_t>(order), regroup,
                        mse ? Search::mse : Search::minmax, at_address<const double>(diagonal),
                        at_address<const double>(hessian), sweeps, threads});
        },
        py::arg("weight"), py::kw_only(), py::arg("factor"), py::arg("order"), py::arg("regroup"), py::arg("mse"),
        py::arg("diagonal"), py::arg("hessian"), py::arg("sweeps"), py::arg("threads"), unlocked());
    m.def(
        "compensate_greedily",
        [](const CompensatedWeight& weight, Address inverse, int threads) {
            compensate_greedily(weight, at_address<const double>(inverse), threads);
        },
        py::arg("weight"), py::kw_only(), py::arg("inverse"), py::arg("threads"), unlocked());
}

}  // namespace tqs
