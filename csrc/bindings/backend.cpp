#include "backend/backend.h"

#include <pybind11/stl.h>

#include <tuple>

#include "bindings/bindings.h"
#include "core/parallel.h"

namespace py = pybind11;

namespace tqs {

void bind_backend(py::module_& m) {
    m.def("isa", [] { return std::string(isa_name(active_table().isa)); });
    m.def("use_isa", &use_isa, py::arg("name"));
    m.def("isas", [] {
        std::vector<std::tuple<std::string, bool>> rows;
        for (const IsaRow& row : list_isas()) rows.emplace_back(isa_name(row.isa), row.available);
        return rows;
    });
    m.def("kernels", [] {
        std::vector<std::tuple<std::string, std::string, std::string, bool>> rows;
        for (const KernelRow& row : list_kernels()) rows.emplace_back(row.op, row.format, row.isa, row.available);
        return rows;
    });
    m.def("default_threads", &default_threads);
    m.def("cuda_built", &cuda::built);
    m.def("cuda_architectures", &cuda::architectures);
    m.def("cuda_library", &cuda::library);
    m.def("cuda_device_count", &cuda::device_count, py::call_guard<py::gil_scoped_release>());
    m.attr("version") = TQS_VERSION;
    m.attr("compiler") = TQS_COMPILER;
}

}  // namespace tqs
