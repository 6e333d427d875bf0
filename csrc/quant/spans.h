// Spans of columns in which codes are gone over again, and the curvature that is left in each.
//
// With the columns before a span rounded and those after it free to make up for all that comes, what errors e = w - q
// within the span [a, b) cost is sum_j D_j r_j^2, r = e U (from all columns before j, and its own). Its gradient is
//
//   g = (r D) U^T,    changing e_j by d changes it by d S_j,    S = U D U^T,    all of the span alone,
//
// so that the best code there is for a column while the others of the span stay is nearest(q_j + g_j / S_jj). S of all
// columns is H itself.
//
// Spans double: each block of columns, then each two, four ... blocks that lie together, and all of them. Where two
// are joined, g of the second half is what it was, and that of the first gains (r D) U^T of the second: half a product
// of matrices for all spans together, where a gradient from nothing would take one for every span.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/program_kernels.h"
#include "core/aligned.h"

namespace tqs {

struct Span {
    std::int64_t begin, middle, end;  // [begin, middle) and [middle, end) are joined; a block has begin == middle
    AlignedBytes panels{};            // (D U^T)[middle ... end, begin ... middle); of a block, of all of it
    std::vector<double> own{};        // S [w, w], w = end - begin; empty where it is H
    const double* curvature{};        // S, or H
    std::int64_t stride{};            // of its rows
    std::vector<double> reach{};      // [w] 1 / S_jj, 0 where S_jj is not positive
};

class Spans {
  public:
    // `factor` [K, K] is L of eliminate, `diagonal` [K] its D and `hessian` [K, K] H, both in rounding order.
    Spans(const double* factor, const double* diagonal, const double* hessian, std::int64_t columns, std::int64_t block,
          int threads);

    // What is to be gone over once the blocks up to `index` are rounded, in this order.
    const std::vector<Span>& after(std::int64_t index) const { return after_[static_cast<std::size_t>(index)]; }
    // U[k, k ... K).
    const double* upper(std::int64_t k) const { return upper_.data() + k * columns_ + k; }

  private:
    void plan();
    void prepare(Span& span, const double* hessian, int threads);

    std::int64_t columns_, block_;
    const ProductKernels& products_;
    std::vector<double> upper_, scaled_;  // [K, K] U, and U D
    std::vector<std::vector<Span>> after_;
};

}  // namespace tqs
