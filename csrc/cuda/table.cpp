// The CUDA backend as the callers see it (backend/kernel_table.h). Its twin is no_cuda/table.cpp.
#include "cuda/check.h"
#include "cuda/kernels.h"

namespace tqs::cuda {

bool built() {
    return true;
}

std::string architectures() {
    return TQS_CUDA_ARCHITECTURES;
}

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();  // no driver or no device is an answer here; do not leave it for the next check to find
    return 0;
}

bool has_qgemm(int bits) {
    return format_index(bits) >= 0;
}

void qgemm(const QgemmTask& task, DType dtype, int device, std::uintptr_t stream) {
    require(task.weight.rows <= std::int64_t{1} << 32, "qgemm",
            "the CUDA kernel takes at most 2^32 output columns, got ", task.weight.rows);
    const DeviceScope scope(device);
    const QgemmLaunch launch = kQgemm[static_cast<int>(dtype)][format_index(task.weight.bits)];
    check_cuda(launch(task, reinterpret_cast<cudaStream_t>(stream)), "qgemm", "the kernel launch");
}

}  // namespace tqs::cuda
