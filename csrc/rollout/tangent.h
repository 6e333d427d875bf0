// Tangent rollouts: Jacobian-vector products along a rollout, K at once.
#pragma once

#include <vector>

#include "rollout/ensemble.h"

namespace tqs {

// The tangent of a constant in one lane.
struct WeightSeed {
    int buffer;
    std::int64_t tangent;  // 0 ... K - 1
    const void* data;      // contiguous, of the constant's elements and precision
};

struct TangentTask {
    std::int64_t samples, tangents;  // N, K
    std::int64_t steps;
    std::vector<const void*> states;  // per leaf [N, elements]
    std::vector<const void*> seeds;   // per leaf [K, N, elements], or null: zero
    std::vector<WeightSeed> weight_seeds;
    std::vector<const void*> inputs;  // per leaf [N, input_steps, elements]
    std::int64_t input_steps;
    std::int64_t values;    // T
    void* outputs;          // [T, N, C]
    void* tangent_outputs;  // [T, K, N, C]
    // Squared errors [K, T, N] of the tangents in float64: mean over channels of (dy / scale)^2. Null: not wanted.
    const double* scale;
    double* errors;
    std::vector<void*> final_states;    // per leaf [N, elements]; empty: not wanted
    std::vector<void*> final_tangents;  // per leaf [K, N, elements]; empty: not wanted
    int threads;
    std::int64_t memory_limit;
    std::uintptr_t stream = 0;  // as in EnsembleTask
};

// The constants with tangents among lanes [first, first + count), as a tile of those tangents wants them.
LaneConstants gather_seeds(const Program& program, const TangentTask& task, std::int64_t first, std::int64_t count);

// Throws ArgumentError, Interrupted.
RolloutUse run_tangents(Stages stages, const TangentTask& task, const Interrupt& interrupt);

}  // namespace tqs
