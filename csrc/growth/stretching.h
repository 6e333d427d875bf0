// Benettin's method in its QR form, from the first step to the last without leaving this library: an orthonormal frame
// per sample is pushed through `interval` steps of a tangent rollout and orthonormalised again, and log |R_ii| is added
// up per block of time. tqs_fast/growth/stretching.py does the same on the torch engine and is its reference.
#pragma once

#include <vector>

#include "rollout/ensemble.h"

namespace tqs {

struct StretchingTask {
    std::int64_t samples, directions;  // N, K; K <= D, the elements of all state leaves together
    std::int64_t steps, interval;      // the last interval may be shorter
    std::int64_t blocks;               // of time; interval i belongs to block i * blocks / intervals
    std::vector<const void*> states;   // per leaf [N, elements]
    std::vector<const void*> inputs;   // per leaf [N, input_steps, elements]
    std::int64_t input_steps;          // >= steps
    const double* frame;               // [N, K, D], orthonormal rows
    double* logs;                      // [blocks, N, K]; nan from the block on in which a sample failed
    double* condition;                 // [N], the largest (see orthonormalize.h); infinite where a frame overflowed
    std::int64_t* diverged;            // [N], the step after which a trajectory was found not finite, or -1
    std::vector<void*> final_states;   // per leaf [N, elements]
    double* final_frame;               // [N, K, D]
    int threads;
    std::uintptr_t stream = 0;  // as in EnsembleTask
};

// Throws ArgumentError, Interrupted. Results do not depend on threads.
RolloutUse run_stretching(const Program& program, const StretchingTask& task, const Interrupt& interrupt);

}  // namespace tqs
