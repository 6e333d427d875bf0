// A kernel on the stream of the context, the launch checked. The emulator has a file of the same name, so that the .cu
// files of this folder are also compiled as ordinary C++ (tests/emulated.py).
#pragma once

#include "cuda/check.h"
#include "cuda/device/instructions.cuh"
#include "cuda/grid.h"
#include "cuda/program/context.h"

namespace tqs::cuda {

// `threads` per block: whole warps, along x. `shared` bytes of dynamic shared memory: a multiple of 128. At least one
// block. A kernel takes one argument, by value, of at most 4 KB.
template <class Argument>
void launch(const char* name, void (*kernel)(Argument), Grid grid, int threads, std::size_t shared,
            const Argument& argument) {
    constexpr std::size_t kWithoutAsking = 48 << 10;
    if (shared > kWithoutAsking) {
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
                   name, "cudaFuncSetAttribute");
    }
    kernel<<<dim3(grid.x, grid.y, grid.z), static_cast<unsigned>(threads), shared, context().stream()>>>(argument);
    check_cuda(cudaGetLastError(), name, "the launch");
}

}  // namespace tqs::cuda
