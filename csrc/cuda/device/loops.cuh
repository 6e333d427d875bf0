// Where the elements of several operands lie. Axes that all operands step through in one go are one loop, so that
// contiguous tensors are a single run whatever their rank; the host builds the loops (a Nest), the device finds an
// element by its number.
#pragma once

#include <cstdint>
#include <limits>

#include "backend/program_kernels.h"
#include "core/check.h"
#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

// n / divisor for n < 2^31 by a product: with 2^shift >= divisor, the smallest such power, and
// multiplier = 1 + floor(2^32 (2^shift - divisor) / divisor), n / divisor = (n + floor(n multiplier / 2^32)) >> shift
// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divider {
    std::uint32_t divisor, multiplier, shift;

    static Divider of(std::int64_t size) {
        const auto divisor = static_cast<std::uint64_t>(size);
        std::uint32_t shift = 0;
        while ((std::uint64_t{1} << shift) < divisor) ++shift;
        const std::uint64_t rest = (std::uint64_t{1} << shift) - divisor;
        return {static_cast<std::uint32_t>(divisor), static_cast<std::uint32_t>((rest << 32) / divisor + 1), shift};
    }

    __device__ std::uint32_t quotient(std::uint32_t n) const {
        const auto high = static_cast<std::uint32_t>(static_cast<std::uint64_t>(n) * multiplier >> 32);
        return (n + high) >> shift;
    }
};

inline constexpr int kMostLoops = kMaxRank + 2;  // lanes, samples, sizes

// Loops from the outermost to the innermost.
template <int operands>
struct Loops {
    int rank;
    std::uint32_t count;  // elements in all
    Divider sizes[kMostLoops];
    std::int64_t strides[operands][kMostLoops];  // in elements

    // Of operand k at element `index`, in elements.
    __device__ std::int64_t offset(int k, std::uint32_t index) const {
        std::int64_t sum = 0;
#pragma unroll 1
        for (int axis = rank - 1; axis > 0; --axis) {
            const std::uint32_t outer = sizes[axis].quotient(index);
            sum += static_cast<std::int64_t>(index - outer * sizes[axis].divisor) * strides[k][axis];
            index = outer;
        }
        return sum + static_cast<std::int64_t>(index) * strides[k][0];
    }

    __device__ std::int64_t inner_stride(int k) const { return strides[k][rank - 1]; }
};

static inline std::int64_t axis_stride(const Operand& operand, int axis) {
    return operand.sizes[axis] == 1 ? 0 : operand.strides[axis];
}

// What the host builds loops with.
template <int operands>
class Nest {
  public:
    // The next inner loop; stride(k) is that of operand k < count.
    template <class Stride>
    void add(std::int64_t size, int count, const Stride& stride) {
        if (size == 1) return;
        bool merge = rank_ > 0;
        for (int k = 0; merge && k < count; ++k) merge = strides_[k][rank_ - 1] == stride(k) * size;
        if (!merge) sizes_[rank_++] = 1;
        sizes_[rank_ - 1] *= size;
        for (int k = 0; k < count; ++k) strides_[k][rank_ - 1] = stride(k);
    }

    std::int64_t elements() const {
        std::int64_t product = 1;
        for (int axis = 0; axis < rank_; ++axis) product *= sizes_[axis];
        return product;
    }
    std::int64_t inner() const { return rank_ ? sizes_[rank_ - 1] : 1; }
    std::int64_t inner_stride(int k) const { return rank_ ? strides_[k][rank_ - 1] : 0; }
    int rank() const { return rank_; }
    // Whether every element of operand k is a multiple of `each` away from the first.
    bool multiples(int k, int each) const {
        for (int axis = 0; axis < rank_; ++axis) {
            if (strides_[k][axis] % each != 0) return false;
        }
        return true;
    }
    // Whether runs of `each` adjacent numbers of elements are adjacent in operand k, at multiples of `each`.
    bool vectors(int k, int each) const {
        if (inner_stride(k) != 1 || inner() % each != 0) return false;
        for (int axis = 0; axis + 1 < rank_; ++axis) {
            if (strides_[k][axis] % each != 0) return false;
        }
        return true;
    }

    Loops<operands> loops(const char* name, int count) const {
        require(elements() <= std::numeric_limits<std::int32_t>::max(), name,
                "expected fewer than 2^31 elements per lane, got ", elements(), "; use fewer samples");
        Loops<operands> result{};
        result.rank = rank_ ? rank_ : 1;
        result.count = static_cast<std::uint32_t>(elements());
        result.sizes[0] = Divider::of(1);
        for (int axis = 0; axis < rank_; ++axis) {
            result.sizes[axis] = Divider::of(sizes_[axis]);
            for (int k = 0; k < count; ++k) result.strides[k][axis] = strides_[k][axis];
        }
        return result;
    }

  private:
    int rank_ = 0;
    std::int64_t sizes_[kMostLoops];
    std::int64_t strides_[operands][kMostLoops];
};

}  // namespace tqs::cuda
