// Kernels on a stream, every launch checked.
#pragma once

#include "cuda/check.h"
#include "cuda/device/dispatch.cuh"
#include "cuda/device_properties.h"
#include "cuda/kernels.h"

namespace tqs::cuda {

struct StreamLaunch {
    cudaStream_t stream;
    const char* name;  // of the kernel, for errors

    template <class Kernel, class Argument>
    void operator()(Kernel kernel, Grid grid, int threads, std::size_t shared, const Argument& argument) const {
        constexpr std::size_t kWithoutAsking = 48 << 10;
        if (shared > kWithoutAsking) {  // the most there is: another thread may be launching it with more
            check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit()),
                       "qgemm", "cudaFuncSetAttribute");
        }
        cudaLaunchAttribute cluster{};
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = grid.cluster;
        cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(grid.x, grid.y, grid.z);
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = shared;
        config.stream = stream;
        config.attrs = &cluster;
        config.numAttrs = grid.cluster > 1 ? 1 : 0;
        check_cuda(cudaLaunchKernelEx(&config, kernel, argument), "qgemm", name);
    }
};

}  // namespace tqs::cuda
