// A weight whose rows are packed in blocks, each at its own bit-width.
#pragma once

#include <vector>

#include "quant/prepared.h"

namespace tqs {

// Some consecutive rows, and how their product takes its activations.
struct RowBlock {
    const Prepared* prepared;
    Activation activation;
};
// All rows, in order.
using RowBlocks = std::vector<RowBlock>;

std::int64_t row_count(const RowBlocks& weight);

// y[M, N] = x[M, K] W^T + bias, float32: one qgemm per block. `bias` [N] or null; strides in elements; threads as
// there.
void multiply(const RowBlocks& weight, const float* x, std::int64_t x_stride, std::int64_t rows, const float* bias,
              float* y, std::int64_t y_stride, int threads);

}  // namespace tqs
