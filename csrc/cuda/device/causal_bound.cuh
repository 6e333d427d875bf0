// How far queries of causal attention see, at the step that the device counts: what is recorded once serves all steps.
#pragma once

#include <cstdint>

namespace tqs::cuda {

// AttentionTask::causal_offset, causal_step and clock.
struct CausalBound {
    std::int64_t offset, step;
    const std::int64_t* clock;  // null: 0

    // Query s sees keys t <= s + now().
    __device__ std::int64_t now() const { return clock ? offset + step * *clock : offset; }
};

}  // namespace tqs::cuda
