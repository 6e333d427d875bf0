// One function per topic file; module.cpp calls them all. Only this folder knows pybind11.
//
// Arrays arrive as integer addresses with sizes and strides in elements: _core is private to tqs_fast/_native.py, and
// kernels.py has validated shapes, dtypes and lifetimes. The library checks ranges and nulls again.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace tqs {

template <class T>
T* at_address(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void bind_errors(pybind11::module_& m);
void bind_attention(pybind11::module_& m);
void bind_backend(pybind11::module_& m);
void bind_compensate(pybind11::module_& m);
void bind_growth(pybind11::module_& m);
void bind_products(pybind11::module_& m);
void bind_program(pybind11::module_& m);
void bind_quant(pybind11::module_& m);
void bind_recurrent(pybind11::module_& m);
void bind_rng(pybind11::module_& m);

}  // namespace tqs
