// A kernel on the stream of the context, the launch checked. The emulator has a file of the same name, so that the .cu
// files of this folder are also compiled as ordinary C++ (tests/emulated.py).
//
// Between two small kernels a GPU idles for about as long as either takes. Where it can (Context::overlaps) a kernel is
// launched while the one before it still runs ("programmatic dependent launch"), and waits in `begin_kernel`, with
// which every kernel of programs begins, until that one has ended and all it wrote is seen. Since all do, that holds
// for everything before it, too.
#pragma once

#include "cuda/check.h"
#include "cuda/device/instructions.cuh"
#include "cuda/device_properties.h"
#include "cuda/grid.h"
#include "cuda/program/context.h"

namespace tqs::cuda {

// `threads` per block: whole warps, along x. `shared` bytes of dynamic shared memory: a multiple of 128. At least one
// block. A kernel takes one argument, by value, of at most 4 KB.
template <class Argument>
void launch(const char* name, void (*kernel)(Argument), Grid grid, int threads, std::size_t shared,
            const Argument& argument) {
    constexpr std::size_t kWithoutAsking = 48 << 10;
    if (shared > kWithoutAsking) {  // the most there is: another thread may be launching it with more
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit()), name,
                   "cudaFuncSetAttribute");
    }
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid.x, grid.y, grid.z);
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared;
    config.stream = context().stream();
    config.attrs = &early;
    config.numAttrs = context().overlaps() ? 1 : 0;
    check_cuda(cudaLaunchKernelEx(&config, kernel, argument), name, "the launch");
}

}  // namespace tqs::cuda
