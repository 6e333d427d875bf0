// Runs of lanes that multiply by the same weights: what blocks of rows are handed out to in the products of a layer.
#pragma once

#include <cstdint>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

// Lanes [lane, lane + lanes), blocks of rows from `block` on. What null weights would multiply is left out.
struct LayerRun {
    std::int64_t block, lane, lanes;
    const void* weight;   // multiplies the lane's own x
    const void* tangent;  // multiplies lane 0's
};

// In place: kernels read of it what they need when they need it, which takes no registers meanwhile.
__device__ inline const LayerRun& run_of_block(const LayerRun* runs, int count, std::int64_t block) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (runs[middle].block <= block ? low : high) = middle;
    }
    return runs[low];
}

}  // namespace tqs::cuda
