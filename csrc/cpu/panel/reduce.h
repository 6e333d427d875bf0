// Reductions over any set of axes. Which of the forms below is taken, and with it the order of a sum, depends on the
// sizes and strides within a sample only.
//
// rows     the innermost reduced axis is adjacent in x: each output sums rows as row_access.h says, and the rows in
//          float64 in index order.
// columns  the innermost kept axis is adjacent: a strip of outputs side by side, each summed in index order by chunks
//          of 64 that are then added up; |error| <= (64 + terms / 64) u sum |terms|.
// elements anything else, and every reduction that chooses or multiplies: one at a time, sums and products in float64.
#pragma once

#include <cmath>

#include "cpu/panel/row_access.h"

namespace tqs::panel {

inline constexpr std::int64_t kReduceChunk = 64;
inline constexpr int kStrip = 4;  // vectors of outputs side by side

template <class W>
static std::int64_t reduce_scratch(const ReduceTask&) {
    return 0;
}

template <class W>
class Reduce {
    using T = typename W::Element;
    using V = typename W::Vector;

    enum class Form { rows, columns, elements };

  public:
    explicit Reduce(const ReduceTask& task) : task_(task) {
        const Operand* const operands[] = {&task.x, &task.out};
        kept_.add(task.extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
        for (int axis = 0; axis < task.x.rank; ++axis) {
            if (task.axes >> axis & 1u) {
                reduced_.add(task.x.sizes[axis], 1, [&](int) { return axis_stride(task.x, axis); });
            } else {
                kept_.add(task.x.sizes[axis], 2, [&](int k) { return axis_stride(*operands[k], axis); });
            }
        }
        kept_.close(2);
        reduced_.close(1);
        terms_ = reduced_.rows() * reduced_.inner();
        sums_ = task.reduction == Reduction::sum || task.reduction == Reduction::mean;
        form_ = choose_form();
    }

    void run() {
        const bool tangent = task_.extent.tangent;
        for (std::int64_t lane = 0; lane < task_.extent.lanes; ++lane) {
            char* out = lane_bytes(task_.out, lane, false);
            const char* x = lane_bytes(task_.x, lane, tangent);
            if (!tangent || lane == 0 || sums_) {
                if (x)
                    reduce_lane(x, out);
                else
                    fill_zero(out);
            }
        }
        if (tangent && !sums_) differentiate();
    }

  private:
    Form choose_form() const {
        const bool extremum = task_.reduction == Reduction::maximum || task_.reduction == Reduction::minimum;
        if (task_.x.precision != kPrecisionOf<W> || !(sums_ || extremum)) return Form::elements;
        if (reduced_.strides[0][reduced_.rank - 1] == 1) return Form::rows;
        const bool adjacent = kept_.strides[0][kept_.rank - 1] == 1 && kept_.strides[1][kept_.rank - 1] == 1;
        return adjacent && task_.out.precision == kPrecisionOf<W> ? Form::columns : Form::elements;
    }

    // Calls body(x offset, out offset) for each pass of the innermost kept loop.
    template <class Body>
    void for_kept_rows(const Body& body) const {
        Row<2> row(kept_, 0);
        const std::int64_t rows = kept_.rows();
        for (std::int64_t r = 0; r < rows; ++r, row.advance()) body(row.offset(0), row.offset(1));
    }

    // The same for each output.
    template <class Body>
    void for_kept(const Body& body) const {
        const std::int64_t x_stride = kept_.strides[0][kept_.rank - 1], out_stride = kept_.strides[1][kept_.rank - 1];
        for_kept_rows([&](std::int64_t x, std::int64_t out) {
            for (std::int64_t i = 0; i < kept_.inner(); ++i) body(x + i * x_stride, out + i * out_stride);
        });
    }

    // Calls body(x offset) for each reduced element, in index order, until it returns false.
    template <class Body>
    void for_reduced(const Body& body) const {
        Row<1> row(reduced_, 0);
        const std::int64_t rows = reduced_.rows(), stride = reduced_.strides[0][reduced_.rank - 1];
        for (std::int64_t r = 0; r < rows; ++r, row.advance()) {
            const std::int64_t begin = row.offset(0);
            for (std::int64_t i = 0; i < reduced_.inner(); ++i) {
                if (!body(begin + i * stride)) return;
            }
        }
    }

    static void put(char* base, Precision precision, std::int64_t offset, double value) {
        if (precision == Precision::float32) {
            reinterpret_cast<float*>(base)[offset] = static_cast<float>(value);
        } else {
            reinterpret_cast<double*>(base)[offset] = value;
        }
    }
    void put(char* out, std::int64_t offset, double value) const { put(out, task_.out.precision, offset, value); }

    void fill_zero(char* out) const {
        for_kept([&](std::int64_t, std::int64_t offset) { put(out, offset, 0.0); });
    }

    void reduce_lane(const char* x, char* out) const {
        switch (form_) {
            case Form::rows:
                return reduce_rows(reinterpret_cast<const T*>(x), out);
            case Form::columns:
                return reduce_columns(reinterpret_cast<const T*>(x), reinterpret_cast<T*>(out));
            case Form::elements:
                with_elements(x, task_.x.precision, [&](const auto* elements) {
                    for_kept([&](std::int64_t from, std::int64_t to) { put(out, to, fold(elements + from)); });
                });
        }
    }

    void reduce_rows(const T* x, char* out) const {
        const std::int64_t rows = reduced_.rows(), length = reduced_.inner();
        const double share = task_.reduction == Reduction::mean ? 1.0 / static_cast<double>(terms_) : 1.0;
        for_kept([&](std::int64_t from, std::int64_t to) {
            double result = 0.0;
            Row<1> row(reduced_, 0);
            for (std::int64_t r = 0; r < rows; ++r, row.advance()) {
                const T* begin = x + from + row.offset(0);
                if (sums_) {
                    result += static_cast<double>(sum_row<W>(length, [&](std::int64_t i, std::int64_t count) {
                        return load_some<W>(begin + i, count, T(0));
                    }));
                } else {
                    const auto best = static_cast<double>(extremum_of_row<W>(begin, length, sign()));
                    if (r == 0 || better(best, result)) result = best;
                }
            }
            put(out, to, sums_ ? result * share : result);
        });
    }

    void reduce_columns(const T* x, T* out) const {
        for_kept_rows([&](std::int64_t from, std::int64_t to) {
            for (std::int64_t j = 0; j < kept_.inner(); j += kStrip * W::kLanes) {
                reduce_strip(x + from + j, out + to + j, kept_.inner() - j);
            }
        });
    }

    // The first `count` of the strip's columns.
    void reduce_strip(const T* x, T* out, std::int64_t count) const {
        V total[kStrip], partial[kStrip];
        for (int k = 0; k < kStrip; ++k) total[k] = partial[k] = W::broadcast(T(0));
        std::int64_t seen = 0;
        const auto flip = W::broadcast(sign());
        for_reduced([&](std::int64_t offset) {
            for (int k = 0; k < kStrip; ++k) {
                const std::int64_t left = count - k * W::kLanes;
                if (left <= 0) break;
                const V value = load_some<W>(x + offset + k * W::kLanes, left, T(0));
                if (sums_) {
                    partial[k] += value;
                } else {
                    const auto wins = (value * flip > total[k] * flip) | (value != value);
                    total[k] = seen == 0 ? value : (wins ? value : total[k]);
                }
            }
            if (++seen % kReduceChunk == 0 && sums_) {
                for (int k = 0; k < kStrip; ++k) {
                    total[k] += partial[k];
                    partial[k] = W::broadcast(T(0));
                }
            }
            return true;
        });
        const V share = W::broadcast(task_.reduction == Reduction::mean ? T(1) / static_cast<T>(terms_) : T(1));
        for (int k = 0; k < kStrip; ++k) {
            const std::int64_t left = count - k * W::kLanes;
            if (left <= 0) break;
            const V result = sums_ ? (total[k] + partial[k]) * share : total[k];
            store_some<W>(out + k * W::kLanes, result, left);
        }
    }

    T sign() const {
        return task_.reduction == Reduction::minimum || task_.reduction == Reduction::argmin ? T(-1) : T(1);
    }

    // Whether a later element replaces the one chosen: NaN wins, and stays.
    bool better(double candidate, double chosen) const {
        if (chosen != chosen) return false;
        return candidate != candidate || (sign() > T(0) ? candidate > chosen : candidate < chosen);
    }

    // Position in index order and offset of the element chosen.
    struct Choice {
        std::int64_t position, offset;
        double value;
    };

    template <class X>
    Choice choose(const X* x) const {
        Choice choice{-1, 0, 0.0};
        std::int64_t position = 0;
        for_reduced([&](std::int64_t offset) {
            const auto value = static_cast<double>(x[offset]);
            if (position == 0 || better(value, choice.value)) choice = {position, offset, value};
            ++position;
            return true;
        });
        return choice;
    }

    // One output, in float64.
    template <class X>
    double fold(const X* x) const {
        double result = 0.0;
        switch (task_.reduction) {
            case Reduction::sum:
            case Reduction::mean:
                for_reduced([&](std::int64_t offset) {
                    result += static_cast<double>(x[offset]);
                    return true;
                });
                return task_.reduction == Reduction::mean ? result / static_cast<double>(terms_) : result;
            case Reduction::product:
                result = 1.0;
                for_reduced([&](std::int64_t offset) {
                    result *= static_cast<double>(x[offset]);
                    return true;
                });
                return result;
            case Reduction::any:
                for_reduced([&](std::int64_t offset) {
                    if (x[offset] != X(0)) result = 1.0;
                    return result == 0.0;
                });
                return result;
            case Reduction::all:
                result = 1.0;
                for_reduced([&](std::int64_t offset) {
                    if (x[offset] == X(0)) result = 0.0;
                    return result != 0.0;
                });
                return result;
            case Reduction::maximum:
            case Reduction::minimum:
                return choose(x).value;
            case Reduction::argmax:
            case Reduction::argmin:
                return static_cast<double>(choose(x).position);
        }
        return result;
    }

    // Tangents of what is not linear: of the element chosen, of a product, or zero.
    void differentiate() const {
        const bool extremum = task_.reduction == Reduction::maximum || task_.reduction == Reduction::minimum;
        const char* x = lane_bytes(task_.x, 0, false);
        with_elements(x, task_.x.precision, [&](const auto* primal) {
            using X = std::remove_cvref_t<decltype(*primal)>;
            for_kept([&](std::int64_t from, std::int64_t to) {
                const std::int64_t chosen = extremum ? choose(primal + from).offset : 0;
                for (std::int64_t lane = 1; lane < task_.extent.lanes; ++lane) {
                    const auto* dx = reinterpret_cast<const X*>(lane_bytes(task_.x, lane, true));
                    double tangent = 0.0;
                    if (dx && extremum) tangent = static_cast<double>(dx[from + chosen]);
                    if (dx && task_.reduction == Reduction::product) {
                        tangent = product_tangent(primal + from, dx + from);
                    }
                    put(lane_bytes(task_.out, lane, false), to, tangent);
                }
            });
        });
    }

    template <class X>
    double product_tangent(const X* x, const X* dx) const {
        double product = 1.0, tangent = 0.0;
        for_reduced([&](std::int64_t offset) {
            tangent = tangent * static_cast<double>(x[offset]) + product * static_cast<double>(dx[offset]);
            product *= static_cast<double>(x[offset]);
            return true;
        });
        return tangent;
    }

    const ReduceTask& task_;
    Nest<2> kept_;  // x, out
    Nest<1> reduced_;
    std::int64_t terms_ = 1;
    bool sums_ = false;
    Form form_ = Form::elements;
};

template <class W>
static void reduce(const ReduceTask& task) {
    Reduce<W>(task).run();
}

}  // namespace tqs::panel
