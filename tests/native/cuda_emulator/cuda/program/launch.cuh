// csrc/cuda/program/launch.cuh for the emulator: a launch is work for a stream (runtime.cpp), run now or recorded.
#pragma once

#include <type_traits>

#include "cuda/check.h"
#include "cuda/device/instructions.cuh"
#include "cuda/grid.h"
#include "cuda/program/context.h"
#include "emulator.h"

namespace tqs::cuda {

template <class Argument>
void launch(const char* name, void (*kernel)(Argument), Grid grid, int threads, std::size_t shared,
            const Argument& argument) {
    static_assert(sizeof(Argument) <= 4096 && std::is_trivially_copyable_v<Argument>);
    require(grid.y <= kMostGridLanes && grid.z <= kMostGridLanes, name, "a grid of this size cannot be launched");
    require(shared <= emulator::shared_limit, name, "a block asks for more shared memory than the device has");
    emulator::submit_kernel(context().stream(), [=] {
        emulator::launch({grid.x, grid.y, grid.z}, threads, shared, [&] {
            kernel(argument);
            emulator::require_begun();
        });
    });
}

}  // namespace tqs::cuda
