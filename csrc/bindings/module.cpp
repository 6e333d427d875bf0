#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "Native kernels of tqs-fast; private, use tqs_fast.kernels.";
    tqs::bind_errors(m);
    tqs::bind_attention(m);
    tqs::bind_backend(m);
    tqs::bind_compensate(m);
    tqs::bind_growth(m);
    tqs::bind_products(m);
    tqs::bind_program(m);
    tqs::bind_quant(m);
    tqs::bind_recurrent(m);
    tqs::bind_rng(m);
}
