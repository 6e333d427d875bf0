// CUDA runtime errors as tqs::Error.
#pragma once

#include <cuda_runtime_api.h>

#include "core/check.h"

namespace tqs::cuda {

inline void check_cuda(cudaError_t status, const char* function, const char* call) {
    if (status == cudaSuccess) return;
    throw Error(message(function, call, " failed: ", cudaGetErrorString(status)));
}

// Makes `device` current for this thread and restores the previous one.
class DeviceScope {
  public:
    DeviceScope(const char* function, int device) {
        check_cuda(cudaGetDevice(&previous_), function, "cudaGetDevice");
        check_cuda(cudaSetDevice(device), function, "cudaSetDevice");
    }
    ~DeviceScope() { cudaSetDevice(previous_); }
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    int previous_ = 0;
};

}  // namespace tqs::cuda
