// Where a rollout stopped being finite. Only run once something has gone wrong: it repeats the rollout.
#pragma once

#include "rollout/tangent.h"

namespace tqs {

struct Failure {
    std::int64_t step;     // -1: the rollout is finite
    int node;              // of the program; of the prologue at step 0 where there is one
    std::int64_t tangent;  // -1: the primal
    std::int64_t sample;
};

// The earliest step of any sample; `task` as for run_tangents (tangents = 0 for a plain rollout), its outputs unused.
Failure find_non_finite(Stages stages, const TangentTask& task, const Interrupt& interrupt);

}  // namespace tqs
