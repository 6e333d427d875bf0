// csrc/cuda/launch.cuh for the emulator.
#pragma once

#include "cuda/check.h"
#include "cuda/device/dispatch.cuh"
#include "cuda/kernels.h"
#include "emulator.h"

namespace tqs::cuda {

struct StreamLaunch {
    cudaStream_t stream;
    const char* name;

    template <class Kernel, class Argument>
    void operator()(Kernel kernel, Grid grid, int threads, std::size_t shared, const Argument& argument) const {
        emulator::submit(stream, [=] {
            emulator::launch(
                {grid.x, grid.y, grid.z}, threads, shared, [&] { kernel(argument); }, static_cast<int>(grid.cluster));
        });
    }
};

}  // namespace tqs::cuda
