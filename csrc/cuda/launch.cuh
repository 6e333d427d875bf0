// Kernels on a stream, every launch checked.
#pragma once

#include "cuda/check.h"
#include "cuda/device/dispatch.cuh"
#include "cuda/kernels.h"

namespace tqs::cuda {

struct StreamLaunch {
    cudaStream_t stream;
    const char* name;  // of the kernel, for errors

    template <class Kernel, class Argument>
    void operator()(Kernel kernel, Grid grid, int threads, std::size_t shared, const Argument& argument) const {
        constexpr std::size_t kWithoutAsking = 48 << 10;
        if (shared > kWithoutAsking) {
            check_cuda(
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
                "qgemm", "cudaFuncSetAttribute");
        }
        kernel<<<dim3(grid.x, grid.y, grid.z), static_cast<unsigned>(threads), shared, stream>>>(argument);
        check_cuda(cudaGetLastError(), "qgemm", name);
    }
};

}  // namespace tqs::cuda
