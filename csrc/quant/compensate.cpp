#include "quant/compensate.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "core/aligned.h"
#include "core/check.h"
#include "core/parallel.h"
#include "quant/codes.h"
#include "quant/grid.h"
#include "quant/spans.h"

namespace tqs {
namespace {

// Columns between two products with all that went before. A block of U is 32 KB, half of it used.
constexpr std::int64_t kBlock = 64;
// Rows that meet U together: enough that the 12-row kernels are full and U is read seldom, few enough that their
// errors, 8 K bytes a row, stay near.
constexpr std::int64_t kStrip = 96;
// Columns looked at together for codes to change.
constexpr std::int64_t kLook = 16;

// Whether the best value of any of `count` columns is further than half a step from its code.
bool any_beyond(const double* __restrict gradient, const double* __restrict reach, const double* __restrict half,
                std::int64_t count) {
    std::int64_t hits = 0;
    for (std::int64_t i = 0; i < count; ++i) hits += std::fabs(gradient[i]) * reach[i] >= half[i] ? 1 : 0;
    return hits > 0;
}

void add(double factor, const double* __restrict x, double* __restrict y, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

class Compensation {
  public:
    explicit Compensation(const CompensateTask& task)
        : task_(task),
          weight_(task.weight),
          columns_(task.weight.weights.columns),
          groups_(packed_groups(columns_, weight_.group_size)),
          // Where scales are chosen on the way, all of a group must have met what went before.
          block_(task.regroup ? std::max(kBlock, weight_.group_size) : kBlock),
          group_(groups_of_columns(columns_, weight_.group_size)),
          products_(active_table().program.products[static_cast<int>(Precision::float64)]) {
        for (std::int64_t begin = 0; begin < columns_; begin += block_) {
            const std::int64_t width = std::min(block_, columns_ - begin);
            panels_.push_back(allocate_aligned(products_.packed_elements(width, begin) * 8));
        }
        if (task.sweeps > 0) {
            spans_.emplace(task.factor, task.diagonal, task.hessian, columns_, block_, task.threads);
        }
    }

    void run() {
        const std::int64_t rows = weight_.weights.rows;
        const int threads = worthwhile_threads(rows * columns_, 1 << 12, task_.threads);
        parallel_for(static_cast<std::int64_t>(panels_.size()), threads, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t i = first; i < last; ++i) pack(i);
        });
        const std::int64_t share = (rows + threads - 1) / threads;
        const std::int64_t strip = std::min(kStrip, (share + 11) / 12 * 12);
        parallel_for((rows + strip - 1) / strip, threads, [&](std::int64_t first, std::int64_t last) {
            Strip scratch(strip, columns_, block_, groups_, task_.sweeps > 0);
            for (std::int64_t i = first; i < last; ++i) {
                round(i * strip, std::min(rows, (i + 1) * strip), scratch);
            }
        });
    }

  private:
    // What a thread holds of the rows at hand; columns in rounding order but for the codes.
    struct Strip {
        Strip(std::int64_t rows, std::int64_t columns, std::int64_t block, std::int64_t groups, bool sweeps)
            : errors(static_cast<std::size_t>(rows * columns)),
              moved(static_cast<std::size_t>(rows * block)),
              factor(static_cast<std::size_t>(block * block)),
              codes(static_cast<std::size_t>(rows * columns)),
              grids(static_cast<std::size_t>(rows * groups)),
              residuals(sweeps ? errors.size() : 0),
              gradient(residuals.size()),
              half(residuals.size()) {}

        std::vector<double> errors;       // [rows, K] w - q
        std::vector<double> moved;        // [rows, block] sum of e_k U_kj so far
        std::vector<double> factor;       // [block, block] U
        std::vector<std::uint8_t> codes;  // [rows, K] in storage order
        std::vector<Grid> grids;          // [rows, G]
        // For sweeps (quant/spans.h), of the columns rounded so far:
        std::vector<double> residuals;  // [rows, K] r
        std::vector<double> gradient;   // [rows, K] g, within the span that was gone over last
        std::vector<double> half;       // [rows, K] half a step, less a hair: `replace` decides on ties
    };

    // U[k, j].
    const double* factor(std::int64_t k, std::int64_t j) const {
        return task_.factor + (columns_ - 1 - k) * columns_ + (columns_ - 1 - j);
    }

    void pack(std::int64_t index) {
        const std::int64_t begin = index * block_, width = std::min(block_, columns_ - begin);
        const auto at = static_cast<std::size_t>(index);
        if (begin > 0) products_.pack(factor(0, begin), width, begin, -1, -columns_, panels_[at].get());
    }

    // y [rows, width] (+)= a [rows, depth] times a packed block.
    void multiply(const double* a, const AlignedBytes& panels, std::int64_t rows, std::int64_t width,
                  std::int64_t depth, double* y, std::int64_t stride, bool accumulate) const {
        products_.gemm({.outer = 1,
                        .inner = rows,
                        .a = a,
                        .a_outer = 0,
                        .a_inner = columns_,
                        .panels = panels.get(),
                        .n = width,
                        .k = depth,
                        .bias = nullptr,
                        .y = y,
                        .y_outer = 0,
                        .y_inner = stride,
                        .accumulate = accumulate});
    }

    void round(std::int64_t first, std::int64_t end, Strip& strip) {
        for (std::int64_t r = first; r < end && !task_.regroup; ++r) {
            for (std::int64_t g = 0; g < groups_; ++g) read_grid(r, g, strip.grids[(r - first) * groups_ + g]);
        }
        for (std::int64_t begin = 0; begin < columns_; begin += block_) {
            const std::int64_t width = std::min(block_, columns_ - begin);
            for (std::int64_t k = 0; k < width; ++k) {
                for (std::int64_t j = k + 1; j < width; ++j) {
                    strip.factor[k * block_ + j] = *factor(begin + k, begin + j);
                }
            }
            if (begin > 0) {
                multiply(strip.errors.data(), panels_[static_cast<std::size_t>(begin / block_)], end - first, width,
                         begin, strip.moved.data(), block_, false);
            } else {
                std::fill(strip.moved.begin(), strip.moved.end(), 0.0);
            }
            for (std::int64_t r = first; r < end; ++r) round_block(r, r - first, begin, width, strip);
            if (task_.sweeps == 0) continue;
            for (const Span& span : spans_->after(begin / block_)) sweep(span, first, end, strip);
        }
        for (std::int64_t r = first; r < end; ++r) write(r, strip.codes.data() + (r - first) * columns_);
    }

    // Rows [first, end) once more over the columns of a span.
    void sweep(const Span& span, std::int64_t first, std::int64_t end, Strip& strip) {
        const bool block = span.begin == span.middle;
        multiply(strip.residuals.data() + span.middle, span.panels, end - first,
                 (block ? span.end : span.middle) - span.begin, span.end - span.middle,
                 strip.gradient.data() + span.begin, columns_, !block);
        for (std::int64_t r = first; r < end; ++r) {
            const SpanRow row = row_of(span, r, r - first, strip);
            bool changed = true;
            for (int i = 0; i < task_.sweeps && changed; ++i) changed = sweep_row(span, row);
        }
    }

    // One row of a span.
    struct SpanRow {
        const float* weights;  // in storage order, as codes and grids are
        const std::int64_t* order;
        const double* half;
        double *errors, *residuals, *gradient;
        std::uint8_t* codes;
        const Grid* grids;
    };

    SpanRow row_of(const Span& span, std::int64_t r, std::int64_t at, Strip& strip) const {
        const std::int64_t place = at * columns_ + span.begin;
        return {.weights = weight_.weights.row(r),
                .order = task_.order + span.begin,
                .half = strip.half.data() + place,
                .errors = strip.errors.data() + place,
                .residuals = strip.residuals.data() + place,
                .gradient = strip.gradient.data() + place,
                .codes = strip.codes.data() + at * columns_,
                .grids = strip.grids.data() + at * groups_};
    }

    // Whether a code has changed. Hardly any do, so that most of the time goes into looking for them.
    bool sweep_row(const Span& span, const SpanRow& row) const {
        const std::int64_t width = span.end - span.begin;
        const double* reach = span.reach.data();
        bool changed = false;
        for (std::int64_t j = 0; j < width; j += kLook) {
            const std::int64_t count = std::min(kLook, width - j);
            if (!any_beyond(row.gradient + j, reach + j, row.half + j, count)) continue;
            for (std::int64_t i = j; i < j + count; ++i) {
                if (std::fabs(row.gradient[i]) * reach[i] >= row.half[i]) changed |= replace(span, row, i);
            }
        }
        return changed;
    }

    // The best code for column j of the span while the others stay.
    bool replace(const Span& span, const SpanRow& row, std::int64_t j) const {
        const std::int64_t column = row.order[j];
        const Grid grid = row.grids[group_[static_cast<std::size_t>(column)]];
        const double weight = row.weights[column], error = row.errors[j];
        const double q = grid.nearest(weight - error + row.gradient[j] * span.reach[static_cast<std::size_t>(j)]);
        const auto code = static_cast<std::uint8_t>(static_cast<int>(q - grid.low));
        if (code == row.codes[column]) return false;
        const double change = weight - grid.scale * q - error;
        row.codes[column] = code;
        row.errors[j] = error + change;
        add(change, span.curvature + j * span.stride, row.gradient, span.stride);
        // Of all columns nothing more will be asked.
        if (span.stride < columns_) add(change, spans_->upper(span.begin + j), row.residuals + j, span.stride - j);
        return true;
    }

    // The columns [begin, begin + width) of row r, place `at` of the strip.
    void round_block(std::int64_t r, std::int64_t at, std::int64_t begin, std::int64_t width, Strip& strip) {
        const float* weights = weight_.weights.row(r);
        const std::int64_t* order = task_.order + begin;
        double* moved = strip.moved.data() + at * block_;
        double* errors = strip.errors.data() + at * columns_ + begin;
        std::uint8_t* codes = strip.codes.data() + at * columns_;
        Grid* grids = strip.grids.data() + at * groups_;
        const bool sweeps = task_.sweeps > 0;
        for (std::int64_t j = 0; j < width; ++j) {
            const std::int64_t column = order[j], group = group_[static_cast<std::size_t>(column)];
            if (task_.regroup && (weight_.group_size ? column % weight_.group_size : column) == 0) {
                choose(r, group, weights + column, moved + j);
                read_grid(r, group, grids[group]);
            }
            const Grid& grid = grids[group];
            const double weight = weights[column];
            const double q = grid.nearest(weight + moved[j]);
            const double error = weight - grid.scale * q;
            errors[j] = error;
            codes[column] = static_cast<std::uint8_t>(static_cast<int>(q - grid.low));
            if (sweeps) {
                const auto own = static_cast<std::size_t>(at * columns_ + begin + j);
                strip.residuals[own] = moved[j] + error;
                strip.half[own] = 0.499 * std::fabs(grid.scale);
            }
            const double* __restrict factor = strip.factor.data() + j * block_;
            for (std::int64_t i = j + 1; i < width; ++i) moved[i] += error * factor[i];
        }
    }

    void read_grid(std::int64_t r, std::int64_t group, Grid& grid) const {
        const std::int64_t at = r * groups_ + group;
        const int zero = weight_.packed.zeros ? weight_.packed.zeros[at] : 1 << (weight_.bits - 1);
        grid = grid_of(weight_.packed.scales[at], zero, weight_.bits);
    }

    // Scale and zero point of a group of row r for the weights as they have become.
    void choose(std::int64_t r, std::int64_t group, const float* weights, const double* moved) const {
        const std::int64_t width = weight_.group_size ? weight_.group_size : columns_;
        const std::int64_t count = std::min(width, columns_ - group * width), at = r * groups_ + group;
        std::vector<float> now(static_cast<std::size_t>(count));
        std::vector<std::uint8_t> unused(static_cast<std::size_t>(packed_row_bytes(count, weight_.bits)));
        for (std::int64_t k = 0; k < count; ++k) {
            const double most = static_cast<double>(FLT_MAX);
            now[static_cast<std::size_t>(k)] = static_cast<float>(std::clamp(weights[k] + moved[k], -most, most));
        }
        active_table().quantize[format_index(weight_.bits)](
            {.weights = now.data(),
             .stride = count,
             .columns = count,
             .group_size = 0,
             .ratios = &scale_ratios(weight_.bits, weight_.packed.zeros == nullptr),
             .search = task_.search == Search::mse,
             .codes = unused.data(),
             .scales = weight_.packed.scales + at,
             .zeros = weight_.packed.zeros ? weight_.packed.zeros + at : nullptr},
            0, 1);
    }

    void write(std::int64_t r, const std::uint8_t* codes) const {
        const std::int64_t bytes = packed_row_bytes(columns_, weight_.bits);
        std::uint8_t* row = weight_.packed.codes + r * bytes;
        std::memset(row, 0, static_cast<std::size_t>(bytes));
        for (std::int64_t k = 0; k < columns_; ++k) write_code(row, k, weight_.bits, codes[k]);
    }

    const CompensateTask& task_;
    const CompensatedWeight& weight_;
    std::int64_t columns_, groups_, block_;
    std::vector<std::int32_t> group_;
    const ProductKernels& products_;
    std::vector<AlignedBytes> panels_;  // of every block: U[0 ... begin, block]
    std::optional<Spans> spans_;        // where there are sweeps
};

}  // namespace

void compensate(const CompensateTask& task) {
    const CompensatedWeight& weight = task.weight;
    const auto [data, rows, columns, stride] = weight.weights;
    check_packed("compensate", {weight.packed.codes, weight.packed.scales, weight.packed.zeros, rows, columns,
                                weight.group_size, weight.bits});
    require(data && task.factor && task.order, "compensate", "weights, factor and order must not be null");
    // A group of per-channel scales is the row: chosen at its first column they are chosen from the weights as given.
    require(task.sweeps == 0 || (task.hessian && task.diagonal), "compensate", "sweeps need the Hessian and D");
    require(!task.regroup || weight.group_size > 0, "compensate", "expected groups of columns to choose scales for");
    for (std::int64_t j = 0; j < columns; ++j) {
        require(task.order[j] >= 0 && task.order[j] < columns && (!task.regroup || task.order[j] == j), "compensate",
                "expected an order of ", columns, " columns, got ", task.order[j], " at ", j);
    }
    Compensation(task).run();
}

}  // namespace tqs
