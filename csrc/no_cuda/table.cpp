// The CUDA backend of a build without CUDA: the same symbols, which say how to get the real ones.
#include "backend/kernel_table.h"
#include "core/check.h"

namespace tqs::cuda {

bool built() {
    return false;
}

std::string architectures() {
    return {};
}

int device_count() {
    return 0;
}

bool has_qgemm(int) {
    return false;
}

void qgemm(const QgemmTask&, DType, int, std::uintptr_t) {
    throw Error(message("qgemm",
                        "tqs-fast was built without CUDA; install the CUDA toolkit (nvcc on PATH) and run "
                        "`pip install . --config-settings=cmake.define.TQS_CUDA=ON`, or move the model to the "
                        "CPU"));
}

}  // namespace tqs::cuda
