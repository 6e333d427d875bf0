// How many blocks a kernel runs.
#pragma once

namespace tqs::cuda {

struct Grid {
    unsigned x, y, z;
};

}  // namespace tqs::cuda
