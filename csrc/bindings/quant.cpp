#include "backend/device.h"
#include "bindings/bindings.h"
#include "core/check.h"
#include "quant/dequantize.h"
#include "quant/prepared.h"
#include "quant/qgemm.h"
#include "quant/quantize.h"

namespace py = pybind11;

namespace tqs {
namespace {

using Address = std::uintptr_t;

PackedView packed_view(Address codes, Address scales, Address zeros, std::int64_t rows, std::int64_t columns,
                       std::int64_t group_size, int bits) {
    return {.codes = at_address<const std::uint8_t>(codes),
            .scales = at_address<const std::uint16_t>(scales),
            .zeros = at_address<const std::uint8_t>(zeros),
            .rows = rows,
            .columns = columns,
            .group_size = group_size,
            .bits = bits};
}

// Where the activations and the product lie.
QgemmTask task_of(Address x, std::int64_t x_stride, std::int64_t rows, Address bias, Address y, std::int64_t y_stride) {
    return {.x = at_address<const void>(x),
            .x_stride = x_stride,
            .rows = rows,
            .weight = {},
            .panels = nullptr,
            .bias = at_address<const float>(bias),
            .y = at_address<void>(y),
            .y_stride = y_stride,
            .activations = nullptr};
}

DType checked_dtype(int dtype, int count = kDTypes) {
    require(dtype >= 0 && dtype < count, "qgemm", "unknown activation dtype ", dtype);
    return static_cast<DType>(dtype);
}

}  // namespace

void bind_quant(py::module_& m) {
    using unlocked = py::call_guard<py::gil_scoped_release>;

    py::class_<PackedView>(m, "PackedView")
        .def(py::init(&packed_view), py::kw_only(), py::arg("codes"), py::arg("scales"), py::arg("zeros"),
             py::arg("rows"), py::arg("columns"), py::arg("group_size"), py::arg("bits"));
    py::class_<Prepared>(m, "Prepared").def_property_readonly("isa", [](const Prepared& prepared) {
        return std::string(isa_name(prepared.isa));
    });

    m.def(
        "quantize",
        [](Address weights, std::int64_t rows, std::int64_t columns, std::int64_t stride, int bits,
           std::int64_t group_size, bool mse, Address codes, Address scales, Address zeros, int threads) {
            quantize(
                {at_address<const float>(weights), rows, columns, stride}, bits, group_size,
                mse ? Search::mse : Search::minmax,
                {at_address<std::uint8_t>(codes), at_address<std::uint16_t>(scales), at_address<std::uint8_t>(zeros)},
                threads);
        },
        py::kw_only(), py::arg("weights"), py::arg("rows"), py::arg("columns"), py::arg("stride"), py::arg("bits"),
        py::arg("group_size"), py::arg("mse"), py::arg("codes"), py::arg("scales"), py::arg("zeros"),
        py::arg("threads"), unlocked());
    m.def(
        "dequantize",
        [](const PackedView& packed, Address out, std::int64_t stride, int threads) {
            dequantize(packed, {at_address<float>(out), packed.rows, packed.columns, stride}, threads);
        },
        py::arg("packed"), py::kw_only(), py::arg("out"), py::arg("stride"), py::arg("threads"), unlocked());
    m.def("prepack", &prepack, py::arg("packed"), unlocked());
    // Arguments by position only: names would cost as much as a small product.
    m.def(
        "qgemm",
        [](const PackedView& packed, int dtype, bool int8, int threads, Address x, std::int64_t x_stride,
           std::int64_t rows, Address bias, Address y, std::int64_t y_stride) {
            QgemmTask task = task_of(x, x_stride, rows, bias, y, y_stride);
            task.weight = packed;
            qgemm(task, checked_dtype(dtype), int8 ? Activation::int8 : Activation::exact, threads);
        },
        unlocked());
    m.def(
        "qgemm_prepared",
        [](const Prepared& prepared, int dtype, bool int8, int threads, Address x, std::int64_t x_stride,
           std::int64_t rows, Address bias, Address y, std::int64_t y_stride) {
            qgemm(task_of(x, x_stride, rows, bias, y, y_stride), prepared, checked_dtype(dtype),
                  int8 ? Activation::int8 : Activation::exact, threads);
        },
        unlocked());
    m.def(
        "round_cuda",
        [](Address weights, Address values, std::int64_t rows, std::int64_t columns, int bits, std::int64_t group_size,
           bool symmetric, bool mse, int device, Address stream) {
            cuda::round_weights({at_address<const float>(weights), at_address<float>(values), rows, columns, group_size,
                                 bits, symmetric, mse},
                                scale_ratios(bits, symmetric), device, stream);
        },
        py::kw_only(), py::arg("weights"), py::arg("values"), py::arg("rows"), py::arg("columns"), py::arg("bits"),
        py::arg("group_size"), py::arg("symmetric"), py::arg("mse"), py::arg("device"), py::arg("stream"), unlocked());
    m.def(
        "dequantize_cuda",
        [](const PackedView& packed, Address out, int device, Address stream) {
            cuda::dequantize(packed, at_address<float>(out), device, stream);
        },
        unlocked());
    m.def("cuda_prepacked_bytes", [](const PackedView& packed) {
        check_packed("prepack", packed);
        return cuda::prepacked_bytes(packed);
    });
    m.def(
        "prepack_cuda",
        [](const PackedView& packed, Address out, int device, Address stream) {
            check_packed("prepack", packed);
            cuda::prepack(packed, at_address<std::uint8_t>(out), device, stream);
        },
        unlocked());
    m.def(
        "qgemm_cuda",
        [](const PackedView& packed, Address panels, int dtype, bool int8, Address workspace,
           std::int64_t workspace_bytes, int device, Address stream, Address x, std::int64_t x_stride,
           std::int64_t rows, Address bias, Address y, std::int64_t y_stride) {
            QgemmTask task = task_of(x, x_stride, rows, bias, y, y_stride);
            task.weight = packed;
            task.panels = at_address<const std::uint8_t>(panels);
            return qgemm_cuda(task, checked_dtype(dtype, kCudaDTypes), int8 ? Activation::int8 : Activation::exact,
                              {at_address<std::uint8_t>(workspace), workspace_bytes}, device, stream);
        },
        unlocked());
}

}  // namespace tqs
