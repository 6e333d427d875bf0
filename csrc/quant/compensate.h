// Rounding with compensation: the error of a column is made up for by the columns that are rounded after it.
//
//   q_j = nearest(w_j + sum_{k < j} e_k U_kj),  e_k = w_k - q_k,   j and k in rounding order
//
// minimises, column by column, (w - q) H (w - q)^T over each row (quant/eliminate.h). All rows share U: a block of
// columns meets everything before it in one product, and only within the block do columns wait for each other.
//
// Sweeps go over columns again, each given all others of its span: of every block when it is rounded, of two blocks, of
// four, and of all (quant/spans.h). What changes in a block is made up for by all that follow.
#pragma once

#include <cstdint>

#include "core/view.h"
#include "quant/quantize.h"
#include "quant/search.h"

namespace tqs {

// A weight on its way to being packed; scales and zero points are in `packed` on entry.
struct CompensatedWeight {
    MatrixView<const float> weights;  // [N, K], finite
    int bits;
    std::int64_t group_size;
    PackedArrays packed;
};

struct CompensateTask {
    CompensatedWeight weight;
    const double* factor;       // [K, K]: L of eliminate, whose sequence is `order` reversed
    const std::int64_t* order;  // [K]: the columns as they are rounded
    // Columns in storage order only: scales and zero points of a group are chosen anew when its first column is
    // reached, for the weights as they are by then; those in `packed` are overwritten.
    bool regroup;
    Search search;  // where they are
    // For sweeps, otherwise null:
    const double* diagonal;  // [K] D of eliminate, in rounding order
    const double* hessian;   // [K, K] H, rows and columns in rounding order
    int sweeps;              // at most so many over each span; a row in which nothing changes ends earlier
    int threads;
};

// Writes the codes. Products and sums in float64. The result does not depend on the number of threads; between
// instruction sets, which sum in another order, a code may differ where a value lies within rounding of a tie.
void compensate(const CompensateTask& task);

// Optimal Brain Quantizer (arXiv:2208.11580, section 5), each row for itself: of the weights left, the one of least
// error^2 / [H_F^-1]_jj is rounded, F the weights left, and the others take over its error. A weight further from every
// code than half a step is rounded at once, as there. `inverse` [K, K] is H^-1.
//
// [H_F^-1] = H^-1 - V V^T, with a column of V per weight rounded, is not formed: only its diagonal and the column of
// the weight at hand are, over the weights left. K^3 / 6 multiply-adds a row, where updating the matrix takes K^3 / 3
// and writes them.
void compensate_greedily(const CompensatedWeight& weight, const double* inverse, int threads);

}  // namespace tqs
