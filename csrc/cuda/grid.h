// How many blocks a kernel runs.
#pragma once

#include <cstdint>

namespace tqs::cuda {

// Blocks along y or z at most, half of what CUDA takes. (The emulator has a file of the same name and fewer, so that
// tests come to more.)
inline constexpr std::int64_t kMostGridLanes = 32768;

struct Grid {
    unsigned x, y, z;
    unsigned cluster = 1;  // neighbours along x that run at once and reach each other's shared memory (sm_90)
};

}  // namespace tqs::cuda
