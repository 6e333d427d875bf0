// csrc/cuda/grid.h for the emulator: so few blocks that tests come to more, and launches of programs may not.
#pragma once

#include <cstdint>

namespace tqs::cuda {

inline constexpr std::int64_t kMostGridLanes = 2048;

struct Grid {
    unsigned x, y, z;
    unsigned cluster = 1;
};

}  // namespace tqs::cuda
