#include "quant/eliminate.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "core/aligned.h"
#include "core/check.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// Columns eliminated between two updates of the rest: their part of a row, 512 bytes, stays in L1 with room to spare.
constexpr std::int64_t kBlock = 64;
// Rows of one piece of an update.
constexpr std::int64_t kStrip = 48;
// Rows ahead whose part of an exchanged column is fetched: rows are K apart, which the processor does not foresee.
constexpr std::int64_t kAhead = 8;

class Elimination {
  public:
    explicit Elimination(const EliminateTask& task)
        : task_(task),
          size_(task.size),
          products_(active_table().program.products[static_cast<int>(Precision::float64)]),
          left_(static_cast<std::size_t>(size_)),
          floor_(static_cast<std::size_t>(size_)),
          scaled_(static_cast<std::size_t>(size_ * kBlock)),
          panels_(allocate_aligned(products_.packed_elements(size_, kBlock) * 8)) {
        if (task.cost) cost_.assign(task.cost, task.cost + size_);
        const double tiny = static_cast<double>(size_) * 0x1p-52;
        for (std::int64_t i = 0; i < size_; ++i) {
            left_[i] = row(i)[i];
            floor_[i] = tiny * left_[i];
        }
    }

    void run() {
        forget_cheapest(0);
        for (std::int64_t i = 0; task_.cost && i < size_; ++i) consider(i);
        for (std::int64_t begin = 0; begin < size_; begin += kBlock) {
            const std::int64_t end = std::min(begin + kBlock, size_);
            for (std::int64_t j = begin; j < end; ++j) {
                const std::int64_t chosen = task_.cost ? cheapest_ : j;
                if (chosen != j) exchange(j, chosen, begin);
                eliminate_column(j, chosen, begin);
            }
            if (end < size_) update(begin, end);
        }
    }

  private:
    double* row(std::int64_t i) const { return task_.matrix + i * size_; }
    // L D of row i and the columns of the block.
    double* scaled(std::int64_t i) { return scaled_.data() + i * kBlock; }

    void forget_cheapest(std::int64_t from) {
        cheapest_ = from;
        least_ = std::numeric_limits<double>::infinity();
    }

    void consider(std::int64_t i) {
        const double price = cost_[static_cast<std::size_t>(i)] * left_[static_cast<std::size_t>(i)];
        if (price < least_) {
            least_ = price;
            cheapest_ = i;
        }
    }

    // Column b takes the place of column a, but for the part below b: eliminate_column moves that on its way.
    void exchange(std::int64_t a, std::int64_t b, std::int64_t begin) {
        std::swap_ranges(row(a), row(a) + a, row(b));
        for (std::int64_t i = a + 1; i < b; ++i) std::swap(row(i)[a], row(b)[i]);
        std::swap_ranges(scaled(a), scaled(a) + (a - begin), scaled(b));
        std::swap(left_[a], left_[b]);
        std::swap(floor_[a], floor_[b]);
        std::swap(cost_[a], cost_[b]);
        std::swap(task_.sequence[a], task_.sequence[b]);
    }

    void eliminate_column(std::int64_t j, std::int64_t chosen, std::int64_t begin) {
        const double pivot = left_[j];
        const bool dependent = !(pivot > floor_[j]);
        const double inverse = dependent ? 0.0 : 1.0 / pivot;
        task_.diagonal[j] = dependent ? 0.0 : pivot;
        const double* across = scaled(j);
        const std::int64_t done = j - begin;
        const bool searches = task_.cost != nullptr;
        forget_cheapest(j + 1);
        for (std::int64_t i = j + 1; i < size_; ++i) {
            double* values = row(i) + begin;
            if (i > chosen) {
                if (i + kAhead < size_) __builtin_prefetch(row(i + kAhead) + chosen, 1);
                std::swap(row(i)[j], row(i)[chosen]);
            }
            double even = 0, odd = 0;  // two sums: the compiler keeps them in one register
            std::int64_t t = 0;
            for (; t + 2 <= done; t += 2) {
                even += values[t] * across[t];
                odd += values[t + 1] * across[t + 1];
            }
            if (t < done) even += values[t] * across[t];
            const double rest = dependent ? 0.0 : values[done] - (even + odd);
            scaled(i)[done] = rest;
            values[done] = rest * inverse;
            left_[i] -= rest * values[done];
            if (searches) consider(i);
        }
    }

    // H[i, j] -= sum_t L[i, t] D_t L[j, t] over the block, for what lies below and right of it.
    void update(std::int64_t begin, std::int64_t end) {
        const std::int64_t rows = size_ - end, depth = end - begin;
        for (std::int64_t i = end; i < size_; ++i) {
            for (std::int64_t t = 0; t < depth; ++t) scaled(i)[t] = -scaled(i)[t];
        }
        products_.pack(scaled(end), rows, depth, kBlock, 1, panels_.get());
        const std::int64_t strips = (rows + kStrip - 1) / kStrip;
        // The work of strips grows down the triangle: they are dealt out from both ends.
        parallel_for(strips, worthwhile_threads(rows * rows / 2, 1 << 12, task_.threads),
                     [&](std::int64_t first, std::int64_t last) {
                         for (std::int64_t unit = first; unit < last; ++unit) {
                             const std::int64_t strip = unit % 2 ? strips - 1 - unit / 2 : unit / 2;
                             const std::int64_t from = end + strip * kStrip, to = std::min(from + kStrip, size_);
                             products_.gemm({.outer = 1,
                                             .inner = to - from,
                                             .a = row(from) + begin,
                                             .a_outer = 0,
                                             .a_inner = size_,
                                             .panels = panels_.get(),
                                             .n = to - end,
                                             .k = depth,
                                             .bias = nullptr,
                                             .y = row(from) + end,
                                             .y_outer = 0,
                                             .y_inner = size_,
                                             .accumulate = true});
                         }
                     });
    }

    const EliminateTask& task_;
    std::int64_t size_;
    const ProductKernels& products_;
    std::vector<double> left_;   // [K]: D of a column were it next
    std::vector<double> floor_;  // [K]: below which a column counts as dependent
    std::vector<double> cost_;   // [K] or empty
    std::vector<double> scaled_;
    AlignedBytes panels_;
    std::int64_t cheapest_ = 0;  // of the columns left, the one of least cost * D, found while D changes
    double least_ = 0;
};

}  // namespace

void eliminate(const EliminateTask& task) {
    require(task.size >= 1 && task.matrix && task.sequence && task.diagonal, "eliminate",
            "expected a matrix [K, K] with a sequence and a diagonal [K], got K = ", task.size);
    Elimination(task).run();
}

}  // namespace tqs
