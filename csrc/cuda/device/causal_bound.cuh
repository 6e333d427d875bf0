// How far queries of causal attention see, at the step that the device counts: what is recorded once serves all steps.
#pragma once

#include <cstdint>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

// AttentionTask::causal_offset, causal_step and clock.
struct CausalBound {
    std::int64_t offset, step;
    const std::int64_t* clock;  // null: 0

    // Query s sees keys t <= s + now().
    __device__ std::int64_t now() const { return clock ? offset + step * *clock : offset; }
};

// Where the keys before `end` that a query sees end; `offset` as it is now.
__device__ inline int seen_before(int end, std::int64_t query, std::int64_t offset) {
    const std::int64_t seen = query + offset + 1;
    return seen < 0 ? 0 : seen < end ? static_cast<int>(seen) : end;
}

}  // namespace tqs::cuda
