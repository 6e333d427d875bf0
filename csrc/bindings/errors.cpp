// C++ errors become the package's own (tqs_fast/errors.py), so that users catch one family.
#include <exception>

#include "bindings/bindings.h"
#include "core/check.h"

namespace py = pybind11;

namespace tqs {

void bind_errors(py::module_&) {
    py::register_local_exception_translator([](std::exception_ptr pending) {
        const auto raise = [](const char* type, const std::exception& error) {
            py::set_error(py::module_::import("tqs_fast.errors").attr(type), error.what());
        };
        try {
            if (pending) std::rethrow_exception(pending);
        } catch (const ArgumentError& error) {
            raise("ArgumentError", error);
        } catch (const Error& error) {
            raise("TqsError", error);
        }
    });
}

}  // namespace tqs
