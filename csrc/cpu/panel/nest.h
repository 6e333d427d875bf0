// The loops over a tile's elements, common to several operands: axes that all of them step through in one go are one
// loop, so that contiguous tensors are a single run whatever their rank.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/program_kernels.h"

namespace tqs::panel {

inline constexpr int kMaxLoops = kMaxRank + 2;  // lanes, samples, sizes

static inline std::int64_t axis_stride(const Operand& operand, int axis) {
    return operand.sizes[axis] == 1 ? 0 : operand.strides[axis];
}

// Where a lane begins, or null for a tangent that is zero.
static inline char* lane_bytes(const Operand& operand, std::int64_t lane, bool tangent) {
    if (operand.lanes) return static_cast<char*>(operand.lanes[lane]);
    if (tangent && lane > 0 && operand.lane_stride == 0) return nullptr;
    return static_cast<char*>(operand.data) + lane * operand.lane_stride * precision_bytes(operand.precision);
}

// Loops from the outermost to the innermost; `rank` is at least 1 after `close`.
template <int operands>
struct Nest {
    int rank = 0;
    std::int64_t sizes[kMaxLoops];
    std::int64_t strides[operands][kMaxLoops];

    // The next inner loop; stride(k) is that of operand k < count.
    template <class Stride>
    void add(std::int64_t size, int count, const Stride& stride) {
        if (size == 1) return;
        bool merge = rank > 0;
        for (int k = 0; merge && k < count; ++k) merge = strides[k][rank - 1] == stride(k) * size;
        if (!merge) sizes[rank++] = 1;
        sizes[rank - 1] *= size;
        for (int k = 0; k < count; ++k) strides[k][rank - 1] = stride(k);
    }

    void close(int count) {
        if (rank > 0) return;
        rank = 1;
        sizes[0] = 1;
        for (int k = 0; k < count; ++k) strides[k][0] = 0;
    }

    std::int64_t inner() const { return sizes[rank - 1]; }

    // Passes of the innermost loop.
    std::int64_t rows() const {
        std::int64_t product = 1;
        for (int axis = 0; axis + 1 < rank; ++axis) product *= sizes[axis];
        return product;
    }

    // Whether operand k is one run of adjacent elements.
    bool dense(int k) const {
        std::int64_t expected = 1;
        for (int axis = rank - 1; axis >= 0; --axis) {
            if (strides[k][axis] != expected) return false;
            expected *= sizes[axis];
        }
        return true;
    }
};

// A position in the outer loops of a nest, in row order.
template <int operands>
class Row {
  public:
    Row(const Nest<operands>& nest, std::int64_t row) : nest_(nest) {
        for (int axis = nest.rank - 2; axis >= 0; --axis) {
            index_[axis] = row % nest.sizes[axis];
            row /= nest.sizes[axis];
        }
    }

    std::int64_t offset(int k) const {
        std::int64_t sum = 0;
        for (int axis = 0; axis + 1 < nest_.rank; ++axis) sum += index_[axis] * nest_.strides[k][axis];
        return sum;
    }

    void advance() {
        for (int axis = nest_.rank - 2; axis >= 0; --axis) {
            if (++index_[axis] < nest_.sizes[axis]) return;
            index_[axis] = 0;
        }
    }

  private:
    const Nest<operands>& nest_;
    std::int64_t index_[kMaxLoops];
};

}  // namespace tqs::panel
