// The elimination that compensating quantizers share: H = U D U^T, U unit upper triangular, columns in rounding order.
//
// Rounding a row w [K] to q costs (w - q) H (w - q)^T = sum_j D_j (w_j + sum_{k < j} e_k U_kj - q_j)^2 with e = w - q.
// So column j, when its turn comes, is rounded after adding sum_{k < j} e_k U_kj, and D_j is the curvature that is left
// of it once all later columns may still move: the Schur complement of H_jj in {j, later columns}. This is the update
// of GPTQ (arXiv:2210.17323) with no inverse formed: its Cholesky factor of H^-1 is D^-1/2 U^-1.
//
// U is computed from the last column back, which is why the columns are handed over in reverse: with H reversed it is
// the unit lower triangular L of H = L D L^T, U[k, j] = L[K-1-k, K-1-j].
#pragma once

#include <cstdint>

namespace tqs {

struct EliminateTask {
    double* matrix;      // [K, K]: on entry H, lower triangle read; on return L below the diagonal, the rest undefined
    std::int64_t size;   // K
    const double* cost;  // [K] >= 0 or null: what rounding the column alone costs per unit of curvature
    std::int64_t* sequence;  // [K]: the column at each place; permuted with the matrix where `cost` is given
    double* diagonal;        // [K]: D
    int threads;
};

// Left to itself (cost null) the sequence is kept. With a cost, the next column is the one of least cost * D among
// those left, the first among equals: the column whose error matters least when the later ones may compensate is
// rounded last.
//
// A column whose D is below K 2^-52 of its H_jj depends on those after it: it has nothing left to pass on, D is set to
// 0 and its column of L to 0. The result does not depend on the number of threads.
void eliminate(const EliminateTask& task);

}  // namespace tqs
