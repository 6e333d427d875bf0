// Recurrent layers with packed weights: all time steps of one layer and direction in one call.
//
// Per step: the product of the hidden states with W_hh (qgemm), the gates (GatesKernel), and for an LSTM with a
// projected state the product with W_hr. The products with W_ih of all steps are one qgemm before the first.
#pragma once

#include <span>

#include "quant/row_blocks.h"

namespace tqs {

// Sizes: G = gates * H, P = H or the rows of `projection`, B[t] samples at step t, R = sum of B. The
// rows of x and out are those of step 0, then those of step 1 and so on; those of a step are its first B[t] samples.
struct RecurrentTask {
    Recurrence recurrence;
    std::int64_t size;                          // H
    bool reverse;                               // from the last step to the first; a sample starts at its own last step
    std::span<const std::int64_t> batch_sizes;  // B, never growing
    const float* x;                             // [R, K], or [R, G] W_ih x + b_ih where `input` is empty
    std::int64_t x_stride;
    RowBlocks input;           // W_ih [G, K]
    const float* input_bias;   // [G] or null
    RowBlocks hidden;          // W_hh [G, P]
    const float* hidden_bias;  // [G] or null
    RowBlocks projection;      // W_hr [P, H], empty: none
    float* hidden_state;       // [B[0], P] dense: the start on entry, the end of every sample on return
    float* cell_state;         // [B[0], H] dense, LSTM only: likewise
    float* out;                // [R, P] dense, the hidden states of all steps, or null
};

// Accuracy: those of the kernels, step by step. The same bits for a sample whatever the others are, and for any number
// of threads. threads = 0: the default, or fewer where the work is too small to share.
void run_recurrent(const RecurrentTask& task, int threads);

}  // namespace tqs
