// The prepacked product by itself, for bench/bench_gemm.py: programs reach it through their ops.
#include "backend/backend.h"
#include "bindings/bindings.h"
#include "core/aligned.h"
#include "core/check.h"

namespace py = pybind11;

namespace tqs {
namespace {

using Address = std::uintptr_t;

class PackedWeight {
  public:
    PackedWeight(Address weight, std::int64_t n, std::int64_t k, const std::string& precision)
        : n_(n), k_(k), precision_(precision == "float64" ? Precision::float64 : Precision::float32) {
        require(weight && n >= 1 && k >= 1, "PackedWeight", "expected a weight [N, K], got [", n, ", ", k, "]");
        require(precision == "float32" || precision == "float64", "PackedWeight",
                "expected precision float32 or float64, got ", precision);
        kernels_ = &active_table().program.products[static_cast<int>(precision_)];
        panels_ = allocate_aligned(kernels_->packed_elements(n, k) * precision_bytes(precision_));
        kernels_->pack(at_address<const void>(weight), n, k, k, 1, panels_.get());
    }

    void multiply(std::int64_t rows, Address x, Address bias, Address y, std::int64_t repeats) const {
        require(rows >= 1 && x && y, "PackedWeight", "expected at least one row, got ", rows);
        const GemmTask task{1,
                            rows,
                            at_address<const void>(x),
                            0,
                            k_,
                            panels_.get(),
                            n_,
                            k_,
                            at_address<const void>(bias),
                            at_address<void>(y),
                            0,
                            n_,
                            false};
        for (std::int64_t i = 0; i < repeats; ++i) kernels_->gemm(task);
    }

  private:
    std::int64_t n_, k_;
    Precision precision_;
    const ProductKernels* kernels_;
    AlignedBytes panels_;
};

}  // namespace

void bind_products(py::module_& m) {
    py::class_<PackedWeight>(m, "PackedWeight")
        .def(py::init<Address, std::int64_t, std::int64_t, const std::string&>(), py::arg("weight"), py::kw_only(),
             py::arg("n"), py::arg("k"), py::arg("precision"))
        .def("multiply", &PackedWeight::multiply, py::kw_only(), py::arg("rows"), py::arg("x"), py::arg("bias"),
             py::arg("y"), py::arg("repeats") = 1, py::call_guard<py::gil_scoped_release>());
}

}  // namespace tqs
