// Ensemble rollouts: many variants of the weights from the same initial conditions.
#pragma once

#include <vector>

#include "rollout/schedule.h"
#include "rollout/tile_run.h"

namespace tqs {

// A constant as some lanes use it. With `data` null it is the constant plus `scale` times standard normal numbers:
// elements [begin, begin + count) of the constant get elements 0 ... count - 1 of the counter-based stream
// (core/rng.h), summed in float64 and rounded once. Such noise is drawn when a tile needs it and kept while that tile
// runs, never for all lanes at once.
struct Variant {
    int buffer;        // of the constant
    const void* data;  // contiguous, of the constant's elements and precision
    std::uint64_t seed, stream;
    double scale;
    std::int64_t begin, count;
};

struct EnsembleTask {
    std::int64_t samples;  // N
    std::int64_t steps;
    std::vector<const void*> states;  // per leaf [N, elements]; null: left to a prologue
    std::vector<const void*> inputs;  // per leaf [N, input_steps, elements]
    std::int64_t input_steps;         // >= steps
    std::vector<Variant> variants;
    std::vector<std::vector<int>> lanes;  // the variants that each lane uses
    std::int64_t values;  // output values wanted, T <= steps * block; the rest of the last block is dropped
    // Errors: reference [T, N, C] of the output's precision and scale [C] give squared errors [lanes, T, N],
    // mean over channels of ((y - reference) / scale)^2 in float64, infinite where not finite. Null: not wanted.
    const void* reference;
    const double* scale;
    double* errors;
    void* outputs;                    // [lanes, T, N, C] or null
    std::vector<void*> final_states;  // per leaf [lanes, N, elements]; null or empty: not wanted
    int threads;
    std::int64_t memory_limit;
    std::uintptr_t stream = 0;  // of a device: what the caller has enqueued there comes first
};

struct RolloutUse {
    Piece largest;               // of a tile
    std::int64_t tile_bytes;     // largest, as allocated, and the constants below
    std::int64_t predicted = 0;  // on a device, before it was (rollout/predict.h), likewise
    std::int64_t constants = 0;  // on a device: brought there for the rollout,
    std::int64_t streamed = 0;   // and for every step of a tile
};

// Throws ArgumentError, Interrupted. Results do not depend on threads or memory limit.
RolloutUse run_ensemble(Stages stages, const EnsembleTask& task, const Interrupt& interrupt);

}  // namespace tqs
