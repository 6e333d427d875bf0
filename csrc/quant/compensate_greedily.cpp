#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "quant/codes.h"
#include "quant/compensate.h"
#include "quant/grid.h"

namespace tqs {
namespace {

// One row. Weights left keep their places together: the one that was rounded changes places with the last.
class GreedyRow {
  public:
    GreedyRow(const CompensatedWeight& weight, const double* inverse)
        : weight_(weight),
          inverse_(inverse),
          columns_(weight.weights.columns),
          groups_(packed_groups(columns_, weight.group_size)),
          group_(groups_of_columns(columns_, weight.group_size)),
          column_(static_cast<std::size_t>(columns_)),
          value_(static_cast<std::size_t>(columns_)),
          diagonal_(static_cast<std::size_t>(columns_)),
          codes_(static_cast<std::size_t>(columns_)),
          grid_(static_cast<std::size_t>(columns_)),
          updates_(static_cast<std::size_t>(columns_ * columns_)) {}

    void run(std::int64_t r) {
        const float* weights = weight_.weights.row(r);
        std::iota(column_.begin(), column_.end(), 0);
        for (std::int64_t k = 0; k < columns_; ++k) {
            const std::int64_t at = r * groups_ + group_[static_cast<std::size_t>(k)];
            const int zero = weight_.packed.zeros ? weight_.packed.zeros[at] : 1 << (weight_.bits - 1);
            value_[k] = weights[k];
            diagonal_[k] = inverse_[k * columns_ + k];
            grid_[k] = grid_of(weight_.packed.scales[at], zero, weight_.bits);
        }
        for (std::int64_t left = columns_; left > 0; --left) {
            const std::int64_t p = next(left);
            const double q = grid_[p].nearest(value_[p]);
            codes_[column_[p]] = static_cast<std::uint8_t>(static_cast<int>(q - grid_[p].low));
            take_over(p, left, value_[p] - grid_[p].scale * q);
            retire(p, left - 1, columns_ - left);
        }
        const std::int64_t bytes = packed_row_bytes(columns_, weight_.bits);
        std::uint8_t* row = weight_.packed.codes + r * bytes;
        std::memset(row, 0, static_cast<std::size_t>(bytes));
        for (std::int64_t k = 0; k < columns_; ++k) write_code(row, k, weight_.bits, codes_[k]);
    }

  private:
    // The weight farthest outside its codes, in steps, if any is; else that of least error^2 / [H_F^-1]_jj.
    std::int64_t next(std::int64_t left) const {
        // Rounding of q and of the product by the scale: far below any distance that matters.
        constexpr double kOutside = 0.5 + 1e-9;
        std::int64_t best = 0, farthest = -1;
        double least = std::numeric_limits<double>::infinity(), most = kOutside;
        for (std::int64_t i = 0; i < left; ++i) {
            const Grid& grid = grid_[i];
            const double steps = value_[i] * grid.inverse - grid.nearest(value_[i]);
            const double error = steps * grid.scale, loss = error * error / diagonal_[i];
            if (loss < least) least = loss, best = i;
            if (std::fabs(steps) > most) most = std::fabs(steps), farthest = i;
        }
        return farthest >= 0 ? farthest : best;
    }

    // The column of weight p of [H_F^-1], divided by the root of its diagonal, and what it does to the weights left.
    void take_over(std::int64_t p, std::int64_t left, double error) {
        const std::int64_t done = columns_ - left;
        const double* from = inverse_ + column_[p] * columns_;
        double* __restrict update = updates_.data() + done * columns_;
        for (std::int64_t i = 0; i < left; ++i) update[i] = from[column_[i]];
        std::int64_t t = 0;
        for (; t + 4 <= done; t += 4) {  // four at a time: a load and a store of the sum for four multiply-adds
            const double* __restrict a = updates_.data() + t * columns_;
            const double* __restrict b = a + columns_;
            const double* __restrict c = b + columns_;
            const double* __restrict d = c + columns_;
            const double x = a[p], y = b[p], z = c[p], w = d[p];
            for (std::int64_t i = 0; i < left; ++i) update[i] -= (x * a[i] + y * b[i]) + (z * c[i] + w * d[i]);
        }
        for (; t < done; ++t) {
            const double* __restrict a = updates_.data() + t * columns_;
            const double x = a[p];
            for (std::int64_t i = 0; i < left; ++i) update[i] -= x * a[i];
        }
        const double root = std::sqrt(diagonal_[p]), inverse = 1.0 / root, along = error * inverse;
        for (std::int64_t i = 0; i < left; ++i) {
            update[i] *= inverse;
            value_[i] -= along * update[i];
            // Rounding may take it to 0 where H^-1 is ill-conditioned; nothing then is left to choose by.
            diagonal_[i] = std::max(diagonal_[i] - update[i] * update[i], std::numeric_limits<double>::min());
        }
    }

    void retire(std::int64_t p, std::int64_t last, std::int64_t done) {
        if (p == last) return;
        std::swap(column_[p], column_[last]);
        std::swap(value_[p], value_[last]);
        std::swap(diagonal_[p], diagonal_[last]);
        std::swap(grid_[p], grid_[last]);
        for (std::int64_t t = 0; t <= done; ++t) updates_[t * columns_ + p] = updates_[t * columns_ + last];
    }

    const CompensatedWeight& weight_;
    const double* inverse_;
    std::int64_t columns_, groups_;
    std::vector<std::int32_t> group_;
    std::vector<std::int64_t> column_;
    std::vector<double> value_, diagonal_;
    std::vector<std::uint8_t> codes_;
    std::vector<Grid> grid_;
    std::vector<double> updates_;  // [K, K]: V, a row per weight rounded
};

}  // namespace

void compensate_greedily(const CompensatedWeight& weight, const double* inverse, int threads) {
    const auto [data, rows, columns, stride] = weight.weights;
    check_packed("compensate_greedily", {weight.packed.codes, weight.packed.scales, weight.packed.zeros, rows, columns,
                                         weight.group_size, weight.bits});
    require(data && inverse, "compensate_greedily", "weights and inverse must not be null");
    parallel_for(rows, threads, [&](std::int64_t begin, std::int64_t end) {
        GreedyRow row(weight, inverse);
        for (std::int64_t r = begin; r < end; ++r) row.run(r);
    });
}

}  // namespace tqs
