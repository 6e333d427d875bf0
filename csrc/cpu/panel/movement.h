// Copies: strided and converting, by runs, and by index. In a tangent rollout a lane whose input has no tangent is
// written with zeros.
#pragma once

#include <limits>
#include <utility>

#include "cpu/panel/nest.h"
#include "cpu/panel/runs.h"

namespace tqs::panel {

// Edge of the squares in which a transposition goes: 16 rows of 16 float64 are 2 KiB on either side.
inline constexpr std::int64_t kTransposeEdge = 16;

// to[i * to_stride] = from[i * from_stride].
template <class W>
static inline void copy_strided(typename W::Element* to, std::int64_t to_stride, const char* from, Precision precision,
                                std::int64_t from_stride, std::int64_t count) {
    using T = typename W::Element;
    if (to_stride == 1) return load_run<W>(to, from, precision, from_stride, count);
    with_elements(from, precision, [&](const auto* source) {
        for (std::int64_t i = 0; i < count; ++i) to[i * to_stride] = static_cast<T>(source[i * from_stride]);
    });
}

// to[i * to_stride + j] = from[i + j * from_stride], in squares that are read and written while they are in the cache.
template <class W>
static void transpose(typename W::Element* to, std::int64_t to_stride, const char* from, Precision precision,
                      std::int64_t from_stride, std::int64_t rows, std::int64_t columns) {
    using T = typename W::Element;
    with_elements(from, precision, [&](const auto* source) {
        for (std::int64_t top = 0; top < rows; top += kTransposeEdge) {
            const std::int64_t bottom = std::min(top + kTransposeEdge, rows);
            for (std::int64_t left = 0; left < columns; left += kTransposeEdge) {
                const std::int64_t right = std::min(left + kTransposeEdge, columns);
                for (std::int64_t i = top; i < bottom; ++i) {
                    for (std::int64_t j = left; j < right; ++j) {
                        to[i * to_stride + j] = static_cast<T>(source[i + j * from_stride]);
                    }
                }
            }
        }
    });
}

// Operand 0 is written, operand 1 read (null: zeros).
template <class W>
static void copy_nest(const Nest<2>& given, typename W::Element* to, const char* from, Precision precision) {
    Nest<2> nest = given;
    const int inner = nest.rank - 1;
    const std::int64_t item = precision_bytes(precision);
    bool transposed = false;
    if (from && nest.strides[0][inner] == 1 && nest.strides[1][inner] > 1) {
        for (int axis = 0; axis < inner && !transposed; ++axis) {
            if (nest.strides[1][axis] != 1) continue;
            for (int k = 0; k < 2; ++k) std::swap(nest.strides[k][axis], nest.strides[k][inner - 1]);
            std::swap(nest.sizes[axis], nest.sizes[inner - 1]);
            transposed = true;
        }
    }
    const std::int64_t columns = nest.sizes[inner];
    const std::int64_t to_stride = nest.strides[0][inner], from_stride = nest.strides[1][inner];
    if (transposed) --nest.rank;  // the two inner loops are one transposition
    const std::int64_t passes = nest.rows();
    Row<2> row(nest, 0);
    for (std::int64_t pass = 0; pass < passes; ++pass, row.advance()) {
        typename W::Element* target = to + row.offset(0);
        const char* source = from ? from + row.offset(1) * item : nullptr;
        if (transposed) {
            transpose<W>(target, nest.strides[0][inner - 1], source, precision, from_stride, nest.sizes[inner - 1],
                         columns);
        } else if (source) {
            copy_strided<W>(target, to_stride, source, precision, from_stride, columns);
        } else {
            for (std::int64_t i = 0; i < columns; ++i) target[i * to_stride] = 0;
        }
    }
}

// The loops of a copy, the axis along which it is written in order innermost.
class CopyAxes {
  public:
    void add(std::int64_t size, std::int64_t to, std::int64_t from) {
        int place = count_++;
        for (; place > 0 && axes_[place - 1].to < to; --place) axes_[place] = axes_[place - 1];
        axes_[place] = {size, to, from};
    }

    Nest<2> nest() const {
        Nest<2> result;
        for (int axis = 0; axis < count_; ++axis) {
            const std::int64_t strides[2] = {axes_[axis].to, axes_[axis].from};
            result.add(axes_[axis].size, 2, [&](int k) { return strides[k]; });
        }
        result.close(2);
        return result;
    }

  private:
    struct Axis {
        std::int64_t size, to, from;
    };
    Axis axes_[kMaxLoops];
    int count_ = 0;
};

template <class W>
static void copy(const CopyTask& task) {
    using T = typename W::Element;
    const Operand &x = task.x, &out = task.out;
    const bool tangent = task.extent.tangent;
    const bool each_lane = x.lanes || (tangent && x.lane_stride == 0);
    CopyAxes axes;
    if (!each_lane) axes.add(task.extent.lanes, out.lane_stride, x.lane_stride);
    axes.add(task.extent.samples, out.sample_stride, x.sample_stride);
    for (int axis = 0; axis < out.rank; ++axis) {
        axes.add(out.sizes[axis], out.strides[axis], axis_stride(x, axis));
    }
    const Nest<2> nest = axes.nest();
    for (std::int64_t lane = 0; lane < (each_lane ? task.extent.lanes : 1); ++lane) {
        copy_nest<W>(nest, lane_data<T>(out, lane, false), lane_bytes(x, lane, tangent), x.precision);
    }
}

template <class W>
static void remap(const RemapTask& task) {
    using T = typename W::Element;
    const std::int64_t item = precision_bytes(task.x.precision);
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        const bool is_tangent = task.extent.tangent && lane > 0;
        const char* from = lane_bytes(task.x, lane, task.extent.tangent);
        const T fill = is_tangent ? T(0) : static_cast<T>(task.fill);
        for (std::int64_t sample = 0; sample < task.extent.samples; ++sample) {
            T* to = lane_data<T>(task.out, lane, false) + sample * task.out.sample_stride;
            const char* source = from ? from + sample * task.x.sample_stride * item : nullptr;
            for (std::int64_t r = 0; r < task.runs; ++r) {
                const Run& run = task.run[r];
                if (source && run.from >= 0) {
                    load_run<W>(to + run.to, source + run.from * item, task.x.precision, run.step, run.count);
                } else {
                    fill_run<W>(to + run.to, fill, run.count);
                }
            }
        }
    }
}

// Operands of the nest: out, index, x (without its indexed axis).
template <class W>
static void gather_lane(const GatherTask& task, const Nest<3>& nest, typename W::Element* out, const char* index,
                        const char* x) {
    using T = typename W::Element;
    const std::int64_t item = precision_bytes(task.x.precision);
    const std::int64_t step = task.x.strides[task.axis];
    const auto size = static_cast<double>(task.x.sizes[task.axis]);
    const int inner = nest.rank - 1;
    const std::int64_t columns = nest.inner(), passes = nest.rows();
    // Where element `position` of the index points, null where that is outside.
    const auto pick = [&](std::int64_t position, std::int64_t offset) -> const char* {
        double chosen = 0.0;
        with_elements(index, task.index.precision, [&](const auto* data) { chosen = data[position]; });
        if (!(chosen >= 0.0 && chosen < size)) return nullptr;
        return x + (static_cast<std::int64_t>(chosen) * step + offset) * item;
    };
    constexpr T invalid = std::numeric_limits<T>::quiet_NaN();
    Row<3> row(nest, 0);
    for (std::int64_t pass = 0; pass < passes; ++pass, row.advance()) {
        T* to = out + row.offset(0);
        const std::int64_t to_stride = nest.strides[0][inner], x_stride = nest.strides[2][inner];
        if (nest.strides[1][inner] == 0 && to_stride == 1) {  // one index for the run: a row of a table
            const char* source = pick(row.offset(1), row.offset(2));
            if (source) {
                load_run<W>(to, source, task.x.precision, x_stride, columns);
            } else {
                fill_run<W>(to, invalid, columns);
            }
            continue;
        }
        for (std::int64_t i = 0; i < columns; ++i) {
            const char* source = pick(row.offset(1) + i * nest.strides[1][inner], row.offset(2) + i * x_stride);
            T value = invalid;
            if (source) with_elements(source, task.x.precision, [&](const auto* at) { value = static_cast<T>(*at); });
            to[i * to_stride] = value;
        }
    }
}

template <class W>
static void gather(const GatherTask& task) {
    using T = typename W::Element;
    const Operand* const operands[] = {&task.out, &task.index, &task.x};
    const bool tangent = task.extent.tangent;
    Nest<3> nest;
    nest.add(task.extent.samples, 3, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < task.out.rank; ++axis) {
        nest.add(task.out.sizes[axis], 3, [&](int k) {
            return k == 2 && axis == task.axis ? std::int64_t{0} : axis_stride(*operands[k], axis);
        });
    }
    nest.close(3);
    for (std::int64_t lane = 0; lane < task.extent.lanes; ++lane) {
        T* out = lane_data<T>(task.out, lane, false);
        const char* x = lane_bytes(task.x, lane, tangent);
        const char* index = lane_bytes(task.index, tangent ? 0 : lane, false);
        if (x) {
            gather_lane<W>(task, nest, out, index, x);
            continue;
        }
        Row<3> row(nest, 0);
        for (std::int64_t pass = 0; pass < nest.rows(); ++pass, row.advance()) {
            T* to = out + row.offset(0);
            for (std::int64_t i = 0; i < nest.inner(); ++i) to[i * nest.strides[0][nest.rank - 1]] = 0;
        }
    }
}

}  // namespace tqs::panel
