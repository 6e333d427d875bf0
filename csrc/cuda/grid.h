// How many blocks a kernel runs.
#pragma once

namespace tqs::cuda {

struct Grid {
    unsigned x, y, z;
    unsigned cluster = 1;  // neighbours along x that run at once and reach each other's shared memory (sm_90)
};

}  // namespace tqs::cuda
