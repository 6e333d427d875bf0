#include "core/rng.h"

#include <pybind11/stl.h>

#include "backend/device.h"
#include "bindings/bindings.h"
#include "core/check.h"

namespace py = pybind11;

namespace tqs {

void bind_rng(py::module_& m) {
    using unlocked = py::call_guard<py::gil_scoped_release>;
    const auto bind_fill = [&m](const char* name, auto fill) {
        m.def(
            name,
            [name, fill](std::uintptr_t out, std::int64_t count, std::uint64_t seed, std::uint64_t stream,
                         std::uint64_t offset) {
                require(count >= 0 && (count == 0 || out != 0), name, "expected count >= 0 and an output");
                fill(at_address<float>(out), count, seed, stream, offset);
            },
            py::kw_only(), py::arg("out"), py::arg("count"), py::arg("seed"), py::arg("stream"), py::arg("offset"),
            unlocked());
    };
    bind_fill("fill_uniform", &fill_uniform);
    bind_fill("fill_normal", &fill_normal);
    m.def(
        "add_noise_cuda",
        [](std::uintptr_t from, std::uintptr_t to, int precision, std::int64_t elements, std::int64_t begin,
           std::int64_t count, double scale, std::uint64_t seed, std::uint64_t stream, int device,
           std::uintptr_t work) {
            require(0 <= begin && 0 <= count && begin + count <= elements, "noise", "noise leaves its weight");
            cuda::add_noise({static_cast<Precision>(precision), at_address<const void>(from), at_address<void>(to),
                             elements, begin, count, scale, seed, stream},
                            device, work);
        },
        py::kw_only(), py::arg("from_"), py::arg("to"), py::arg("precision"), py::arg("elements"), py::arg("begin"),
        py::arg("count"), py::arg("scale"), py::arg("seed"), py::arg("stream"), py::arg("device"), py::arg("work"),
        unlocked());
    m.def("philox4x32_10", &philox4x32_10, py::arg("counter"), py::arg("key"));
}

}  // namespace tqs
