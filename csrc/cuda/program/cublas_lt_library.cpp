#include <dlfcn.h>

#include <mutex>
#include <optional>

#include "cuda/program/cublas_lt_api.h"

namespace tqs::cuda::lt {
namespace {

// What torch has loaded, else what the system's loader finds.
void* open_library() {
    for (const int flags : {RTLD_LAZY | RTLD_NOLOAD, RTLD_LAZY}) {
        for (const char* const name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
            if (void* const library = dlopen(name, flags)) return library;
        }
    }
    return nullptr;
}

template <class Function>
bool look_up(void* library, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    return function != nullptr;
}

std::optional<Library> load() {
    void* const library = open_library();
    if (!library) return std::nullopt;
    Library result;
    Api& api = result.api;
    const bool whole = look_up(library, "cublasLtCreate", api.create) &&
                       look_up(library, "cublasLtDestroy", api.destroy) &&
                       look_up(library, "cublasLtMatmulDescCreate", api.operation_create) &&
                       look_up(library, "cublasLtMatmulDescDestroy", api.operation_destroy) &&
                       look_up(library, "cublasLtMatmulDescSetAttribute", api.operation_set) &&
                       look_up(library, "cublasLtMatrixLayoutCreate", api.layout_create) &&
                       look_up(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy) &&
                       look_up(library, "cublasLtMatmulPreferenceCreate", api.preference_create) &&
                       look_up(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy) &&
                       look_up(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set) &&
                       look_up(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic) &&
                       look_up(library, "cublasLtMatmul", api.matmul);
    if (!whole) return std::nullopt;
    Dl_info where{};
    result.path = dladdr(reinterpret_cast<const void*>(api.matmul), &where) && where.dli_fname ? where.dli_fname : "";
    return result;
}

}  // namespace

// Asked for again where there was none: torch may have been imported since. Never closed.
const Library* find_library() {
    static std::mutex mutex;
    static std::optional<Library> library;
    const std::scoped_lock lock(mutex);
    if (!library) library = load();
    return library ? &*library : nullptr;
}

}  // namespace tqs::cuda::lt
