// Kernels that treat the last axes of a tensor as rows: where rows lie, and vectors along a row.
//
// Sums along a row go into four vectors, 16 terms each, which are added up every 64 vectors: at most 16 + (count / 64
// kLanes) + 2 + log2(kLanes) roundings for any term, |error| <= that u sum |terms|. The order depends on the row's
// length only.
#pragma once

#include <limits>
#include <utility>

#include "cpu/panel/nest.h"
#include "cpu/panel/runs.h"

namespace tqs::panel {

template <class W>
static constexpr Precision kPrecisionOf =
    std::is_same_v<typename W::Element, float> ? Precision::float32 : Precision::float64;

template <class W>
static inline std::int64_t padded_row(std::int64_t elements) {
    return (elements + W::kLanes - 1) / W::kLanes * W::kLanes;
}

// A vector of the first `count` elements at `from`, the others `otherwise`.
template <class W>
static inline typename W::Vector load_some(const typename W::Element* from, std::int64_t count,
                                           typename W::Element otherwise) {
    return count >= W::kLanes ? W::load(from) : W::load_first(from, count, W::broadcast(otherwise));
}

template <class W>
static inline void store_some(typename W::Element* to, typename W::Vector value, std::int64_t count) {
    if (count >= W::kLanes) {
        W::store(to, value);
    } else {
        W::store_first(to, value, count);
    }
}

// Calls body(i, count) for each vector of a row; count < kLanes in the last one.
template <class W, class Body>
static inline void for_row(std::int64_t elements, const Body& body) {
    for (std::int64_t i = 0; i < elements; i += W::kLanes) body(i, elements - i);
}

// The lanes moved on by `by`, and around.
template <class W, std::size_t by, std::size_t... lane>
static inline typename W::Vector rotate(typename W::Vector value, std::index_sequence<lane...>) {
    return __builtin_shufflevector(value, value, ((lane + by) % sizeof...(lane))...);
}

// All lanes together by f(vector, vector), commutative: halves, quarters, ...
template <class W, std::size_t half = W::kLanes / 2, class F>
static inline typename W::Element fold_lanes(typename W::Vector value, const F& f) {
    if constexpr (W::kLanes == 1) {
        return value;
    } else {
        value = f(value, rotate<W, half>(value, std::make_index_sequence<std::size_t{W::kLanes}>{}));
        if constexpr (half > 1) {
            return fold_lanes<W, half / 2>(value, f);
        } else {
            return value[0];
        }
    }
}

// Sum of term(i, count), vectors that are zero from element `count` on.
template <class W, class Term>
static inline typename W::Element sum_row(std::int64_t elements, const Term& term) {
    constexpr int kSums = 4;
    constexpr std::int64_t step = kSums * W::kLanes, chunk = 16 * step;
    typename W::Vector total = W::broadcast(0);
    for (std::int64_t begin = 0; begin < elements; begin += chunk) {
        const std::int64_t end = std::min(begin + chunk, elements);
        typename W::Vector sums[kSums] = {total, total, total, total};
        for (auto& sum : sums) sum = W::broadcast(0);
        std::int64_t i = begin;
        for (; i + step <= end; i += step) {
            for (int k = 0; k < kSums; ++k) sums[k] += term(i + k * W::kLanes, std::int64_t{W::kLanes});
        }
        for (int k = 0; k < kSums; ++k, i += W::kLanes) {
            if (i < end) sums[k] += term(i, end - i);
        }
        total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    return fold_lanes<W>(total, [](typename W::Vector a, typename W::Vector b) { return a + b; });
}

// The largest element, or with sign -1 the smallest; NaN if there is one. Four chains, as a comparison waits for the
// one before it; NaN, which loses every comparison, goes another way.
template <class W>
static inline typename W::Element extremum_of_row(const typename W::Element* row, std::int64_t elements,
                                                  typename W::Element sign) {
    using T = typename W::Element;
    using V = typename W::Vector;
    constexpr int kChains = 4;
    constexpr T lowest = -std::numeric_limits<T>::infinity();
    const T padding = sign * lowest;
    const auto larger = [](V a, V b) {
        return a > b ? a : b;
    };
    const auto invalid = [](V a, V b) {
        return a != a ? a : b;
    };
    V best[kChains], nan = W::broadcast(T(0));
    for (V& chain : best) chain = W::broadcast(lowest);
    for (std::int64_t i = 0; i < elements; i += kChains * W::kLanes) {
        for (int k = 0; k < kChains; ++k) {
            const std::int64_t left = elements - i - k * W::kLanes;
            if (left <= 0) break;
            const V x = load_some<W>(row + i + k * W::kLanes, left, padding);
            best[k] = larger(x * sign, best[k]);
            nan = invalid(x, nan);
        }
    }
    const T not_a_number = fold_lanes<W>(nan, invalid);
    if (not_a_number != not_a_number) return not_a_number;
    return sign * fold_lanes<W>(larger(larger(best[0], best[1]), larger(best[2], best[3])), larger);
}

// Rows of several operands, the last `axes` axes of each; one lane at a time.
template <class W, int operands>
class RowSet {
    using T = typename W::Element;

  public:
    RowSet(const Extent& extent, const Operand* const (&given)[operands], int axes) {
        std::copy(given, given + operands, operand_);
        const int rank = given[0]->rank, first = rank - axes;
        const auto add = [&](Nest<operands>& nest, int axis) {
            std::int64_t size = 1;  // operands may differ along the rows' own axes (top_k)
            for (const Operand* operand : given) size = std::max(size, operand->sizes[axis]);
            nest.add(size, operands, [&](int k) { return axis_stride(*given[k], axis); });
        };
        outer_.add(extent.samples, operands, [&](int k) { return given[k]->sample_stride; });
        for (int axis = 0; axis < first; ++axis) add(outer_, axis);
        for (int axis = first; axis < rank; ++axis) add(inner_, axis);
        outer_.close(operands);
        inner_.close(operands);
        for (int k = 0; k < operands; ++k) {
            direct_[k] = given[k]->precision == kPrecisionOf<W> && (inner_.dense(k) || elements() == 1);
        }
    }

    std::int64_t elements() const { return inner_.rows() * inner_.inner(); }

    // Calls body(row) for every row of a lane.
    template <class Body>
    void for_rows(const Body& body) const {
        const std::int64_t rows = outer_.rows(), columns = outer_.inner();
        Row<operands> row(outer_, 0);
        for (std::int64_t r = 0; r < rows; ++r, row.advance()) {
            for (std::int64_t column = 0; column < columns; ++column) {
                std::int64_t offsets[operands];
                for (int k = 0; k < operands; ++k) {
                    offsets[k] = row.offset(k) + column * outer_.strides[k][outer_.rank - 1];
                }
                body(offsets);
            }
        }
    }

    // The row of operand k in the lane that begins at `base`: where it lies, or copied to `buffer`.
    const T* read(int k, const char* base, const std::int64_t (&offsets)[operands], T* buffer) const {
        const std::int64_t item = precision_bytes(operand_[k]->precision);
        const char* from = base + offsets[k] * item;
        if (direct_[k]) return reinterpret_cast<const T*>(from);
        Row<operands> part(inner_, 0);
        const std::int64_t count = inner_.inner();
        for (std::int64_t r = 0; r < inner_.rows(); ++r, part.advance()) {
            load_run<W>(buffer + r * count, from + part.offset(k) * item, operand_[k]->precision,
                        inner_.strides[k][inner_.rank - 1], count);
        }
        return buffer;
    }

    // Where to write a row; `finish` then takes it from there to its place.
    T* place(int k, char* base, const std::int64_t (&offsets)[operands], T* buffer) const {
        return direct_[k] ? reinterpret_cast<T*>(base) + offsets[k] : buffer;
    }

    void finish(int k, char* base, const std::int64_t (&offsets)[operands], const T* buffer) const {
        if (direct_[k]) return;
        const std::int64_t item = precision_bytes(operand_[k]->precision);
        char* to = base + offsets[k] * item;
        Row<operands> part(inner_, 0);
        const std::int64_t count = inner_.inner();
        for (std::int64_t r = 0; r < inner_.rows(); ++r, part.advance()) {
            store_run<W>(to + part.offset(k) * item, operand_[k]->precision, inner_.strides[k][inner_.rank - 1],
                         buffer + r * count, count);
        }
    }

  private:
    const Operand* operand_[operands];
    Nest<operands> outer_, inner_;
    bool direct_[operands];
};

// Calls primal(lane, offsets) for every row, and after it, in a tangent rollout, tangent(lane, offsets) for lanes 1 ...
template <class W, int operands, class Primal, class Tangent>
static void for_lanes(const Extent& extent, const RowSet<W, operands>& rows, const Primal& primal,
                      const Tangent& tangent) {
    for (std::int64_t lane = 0; lane < (extent.tangent ? 1 : extent.lanes); ++lane) {
        rows.for_rows([&](const std::int64_t (&offsets)[operands]) {
            primal(lane, offsets);
            for (std::int64_t other = 1; extent.tangent && other < extent.lanes; ++other) tangent(other, offsets);
        });
    }
}

}  // namespace tqs::panel
