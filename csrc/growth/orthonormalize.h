// QR factorisation of a frame of tangents by Householder reflections.
#pragma once

#include <cstdint>

namespace tqs {

// `frame` [K, D]: K <= D columns of D adjacent numbers, finite. It becomes Q, orthonormal also where columns were
// dependent (it is then completed), and logs [K] = log |R_ii|, -infinity for a column that depends on those before it.
// Signs as in LAPACK. scratch: orthonormalize_scratch(K) numbers.
//
// Returns the condition ||(R S)^-1||_F / sqrt(K) where S scales every column of R to norm 1: 1 for orthogonal columns
// of any lengths, at least kappa_2(R S) / K, infinite where an R_ii is 0. Lengths do not count because Householder's
// errors are relative to each column; columns that have turned towards each other cost as many digits as this number
// has.
double orthonormalize(double* frame, std::int64_t size, std::int64_t directions, double* logs, double* scratch);

static constexpr std::int64_t orthonormalize_scratch(std::int64_t directions) {
    return directions * (directions + 1);
}

}  // namespace tqs
