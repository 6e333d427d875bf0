#include "quant/spans.h"

#include <algorithm>
#include <utility>

#include "backend/backend.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// Rows of S made at once: so many that packing what they meet is a small part.
constexpr std::int64_t kRows = 64;

}  // namespace

Spans::Spans(const double* factor, const double* diagonal, const double* hessian, std::int64_t columns,
             std::int64_t block, int threads)
    : columns_(columns),
      block_(block),
      products_(active_table().program.products[static_cast<int>(Precision::float64)]),
      upper_(static_cast<std::size_t>(columns * columns)),
      scaled_(upper_.size()) {
    parallel_for(columns, worthwhile_threads(columns * columns, 1 << 16, threads),
                 [&](std::int64_t first, std::int64_t last) {
                     for (std::int64_t n = first; n < last; ++n) {
                         double* row = upper_.data() + n * columns;
                         const double* reversed = factor + (columns - 1 - n) * columns + (columns - 1);
                         row[n] = 1.0;
                         for (std::int64_t k = n + 1; k < columns; ++k) row[k] = reversed[-k];
                         for (std::int64_t k = n; k < columns; ++k) scaled_[n * columns + k] = row[k] * diagonal[k];
                     }
                 });
    plan();
    for (std::vector<Span>& spans : after_) {
        for (Span& span : spans) prepare(span, hessian, threads);
    }
    std::vector<double>().swap(scaled_);  // K^2 that only the panels were made of
}

void Spans::plan() {
    std::vector<std::pair<std::int64_t, std::int64_t>> open;  // (begin, blocks), not joined yet, from left to right
    const auto join = [&] {
        const auto [middle, blocks] = open.back();
        open.pop_back();
        open.back().second += blocks;
        after_.back().push_back({.begin = open.back().first, .middle = middle, .end = 0});
    };
    for (std::int64_t begin = 0; begin < columns_; begin += block_) {
        const std::int64_t end = std::min(begin + block_, columns_);
        after_.emplace_back();
        after_.back().push_back({.begin = begin, .middle = begin, .end = end});
        open.emplace_back(begin, 1);
        while (open.size() > 1 && (open.back().second == open[open.size() - 2].second || end == columns_)) join();
        for (Span& span : after_.back()) span.end = end;
    }
}

// S = U D U^T: rows of the lower half by products over the columns from the diagonal on, and their mirror image.
void Spans::prepare(Span& span, const double* hessian, int threads) {
    const auto [begin, end] = std::pair(span.begin, span.end);
    const std::int64_t width = end - begin, left = span.begin == span.middle ? width : span.middle - begin;
    span.panels = allocate_aligned(products_.packed_elements(left, end - span.middle) * 8);
    products_.pack(scaled_.data() + begin * columns_ + span.middle, left, end - span.middle, columns_, 1,
                   span.panels.get());
    if (width == columns_) {
        span.curvature = hessian;
    } else {
        span.own.resize(static_cast<std::size_t>(width * width));
        double* square = span.own.data();
        parallel_for((width + kRows - 1) / kRows, worthwhile_threads(width * width * width / 6, 1 << 18, threads),
                     [&](std::int64_t first, std::int64_t last) {
                         for (std::int64_t unit = first; unit < last; ++unit) {
                             const std::int64_t from = unit * kRows, to = std::min(from + kRows, width);
                             const AlignedBytes panels =
                                 allocate_aligned(products_.packed_elements(to, width - from) * 8);
                             products_.pack(upper_.data() + begin * columns_ + begin + from, to, width - from, columns_,
                                            1, panels.get());
                             products_.gemm({.outer = 1,
                                             .inner = to - from,
                                             .a = scaled_.data() + (begin + from) * columns_ + begin + from,
                                             .a_outer = 0,
                                             .a_inner = columns_,
                                             .panels = panels.get(),
                                             .n = to,
                                             .k = width - from,
                                             .bias = nullptr,
                                             .y = square + from * width,
                                             .y_outer = 0,
                                             .y_inner = width,
                                             .accumulate = false});
                             for (std::int64_t i = from; i < to; ++i) {
                                 for (std::int64_t n = 0; n < i; ++n) square[n * width + i] = square[i * width + n];
                             }
                         }
                     });
        span.curvature = square;
    }
    span.stride = width;
    span.reach.resize(static_cast<std::size_t>(width));
    for (std::int64_t j = 0; j < width; ++j) {
        const double own = span.curvature[j * width + j];
        span.reach[static_cast<std::size_t>(j)] = own > 0 ? 1.0 / own : 0.0;
    }
}

}  // namespace tqs
