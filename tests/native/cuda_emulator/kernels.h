// The CUDA kernels, emulated: what the .cu files of csrc/cuda are on a GPU, with the emulator for a stream.
#pragma once

#include "cuda/device/dispatch.cuh"
#include "emulator.h"

namespace tqs::cuda {

struct EmulatedLaunch {
    template <class Kernel, class Argument>
    void operator()(Kernel kernel, Grid grid, int threads, std::size_t shared, const Argument& argument) const {
        emulator::launch({grid.x, grid.y, grid.z}, threads, shared, [&] { kernel(argument); });
    }
};

void multiply_bfloat16(const Product& p, const Plan& plan);
void multiply_float16(const Product& p, const Plan& plan);
void multiply_int8(const Product& p, const Plan& plan);
void warpgroups_bfloat16(const Product& p, const Plan& plan);
void warpgroups_float16(const Product& p, const Plan& plan);
void warpgroups_int8(const Product& p, const Plan& plan);

}  // namespace tqs::cuda
