// Products of activations with activations, over the pack and gemm of an ISA (`P`): the right operand is packed where
// it is met and then goes the way of a weight.
//
// Around one [M, K] x [K, N] product every lane, sample and leading axis is a step in a, b and y. One axis along which
// b stays where it is becomes further rows of the same gemm; the tangents da_k b are such an axis.
#pragma once

#include <utility>

#include "backend/program_kernels.h"

namespace tqs::panel {

// Up to this many rows a right operand with adjacent columns is read where it lies: packing it takes as long.
inline constexpr std::int64_t kUnpackedRows = 3;

struct ProductAxis {
    std::int64_t size, a, b, y;
};

struct BatchedProduct {
    std::int64_t m, n, k, a_m, a_k, b_k, b_n, y_m;
    int axes;
    ProductAxis axis[kMaxRank];  // samples, leading axes, lanes
};

template <class Element>
struct MatmulScratch {
    Element* packed;
    Element* rows;                   // of a, where its elements are not adjacent
    const Element* holds = nullptr;  // the b in `packed`
};

static inline void transpose(Operand& operand) {
    std::swap(operand.sizes[operand.rank - 1], operand.sizes[operand.rank - 2]);
    std::swap(operand.strides[operand.rank - 1], operand.strides[operand.rank - 2]);
}

// A column of results is computed as the row b^T a^T: one row of full vectors instead of M with one lane each.
static inline MatmulTask oriented(MatmulTask task) {
    const int m = task.out.rank - 2;
    if (task.out.sizes[m + 1] > 1 || task.out.strides[m] != 1) return task;
    std::swap(task.a, task.b);
    transpose(task.a);
    transpose(task.b);
    transpose(task.out);
    return task;
}

static inline BatchedProduct batched_product(const MatmulTask& task) {
    const int m = task.out.rank - 2, n = task.out.rank - 1;
    BatchedProduct product{task.out.sizes[m],
                           task.out.sizes[n],
                           task.a.sizes[n],
                           task.a.strides[m],
                           task.a.strides[n],
                           task.b.strides[m],
                           task.b.strides[n],
                           task.out.strides[m],
                           1,
                           {}};
    product.axis[0] = {task.extent.samples, task.a.sample_stride, task.b.sample_stride, task.out.sample_stride};
    for (int i = 0; i < m; ++i) {
        product.axis[product.axes++] = {task.out.sizes[i], task.a.strides[i], task.b.strides[i], task.out.strides[i]};
    }
    return product;
}

// `outer` products of the same b; their results y_outer apart.
template <class P>
static void multiply_rows(const BatchedProduct& product, std::int64_t outer, std::int64_t a_outer, std::int64_t y_outer,
                          const typename P::Element* a, const typename P::Element* b, typename P::Element* y,
                          bool accumulate, MatmulScratch<typename P::Element>& scratch) {
    using Element = typename P::Element;
    if (outer * product.m <= kUnpackedRows && product.b_n == 1) {
        for (std::int64_t row = 0; row < outer * product.m; ++row) {
            const std::int64_t o = row / product.m, m = row % product.m;
            const Element* from = a + o * a_outer + m * product.a_m;
            Element* __restrict out = y + o * y_outer + m * product.y_m;
            for (std::int64_t n = 0; n < product.n && !accumulate; ++n) out[n] = 0;
            for (std::int64_t k = 0; k < product.k; ++k) {
                const Element value = from[k * product.a_k];
                const Element* __restrict right = b + k * product.b_k;
                for (std::int64_t n = 0; n < product.n; ++n) out[n] = P::multiply_add(value, right[n], out[n]);
            }
        }
        return;
    }
    if (scratch.holds != b) {
        P::pack(b, product.n, product.k, product.b_n, product.b_k, scratch.packed);
        scratch.holds = b;
    }
    GemmTask task{outer,     product.m, a, a_outer, product.a_m, scratch.packed, product.n,
                  product.k, nullptr,   y, y_outer, product.y_m, accumulate};
    if (product.a_k == 1 || product.k <= 1) return P::gemm(task);
    task.outer = 1;
    task.a = scratch.rows;
    task.a_inner = product.k;
    for (std::int64_t o = 0; o < outer; ++o) {
        const Element* from = a + o * a_outer;
        for (std::int64_t m = 0; m < product.m; ++m) {
            for (std::int64_t k = 0; k < product.k; ++k) {
                scratch.rows[m * product.k + k] = from[m * product.a_m + k * product.a_k];
            }
        }
        task.y = y + o * y_outer;
        P::gemm(task);
    }
}

template <class P>
static void multiply_axes(const BatchedProduct& product, const typename P::Element* a, const typename P::Element* b,
                          typename P::Element* y, bool accumulate, MatmulScratch<typename P::Element>& scratch) {
    ProductAxis rows{1, 0, 0, 0};
    int merged = -1;
    for (int i = 0; i < product.axes; ++i) {
        if (product.axis[i].b == 0 && product.axis[i].size > rows.size) rows = product.axis[i], merged = i;
    }
    std::int64_t index[kMaxRank] = {};
    for (;;) {
        std::int64_t at_a = 0, at_b = 0, at_y = 0;
        for (int i = 0; i < product.axes; ++i) {
            at_a += index[i] * product.axis[i].a;
            at_b += index[i] * product.axis[i].b;
            at_y += index[i] * product.axis[i].y;
        }
        multiply_rows<P>(product, rows.size, rows.a, rows.y, a + at_a, b + at_b, y + at_y, accumulate, scratch);
        int axis = product.axes - 1;
        while (axis >= 0 && (axis == merged || ++index[axis] == product.axis[axis].size)) index[axis--] = 0;
        if (axis < 0) return;
    }
}

template <class P>
static std::int64_t packed_bytes(const BatchedProduct& product) {
    const std::int64_t bytes =
        P::packed_elements(product.n, product.k) * static_cast<std::int64_t>(sizeof(typename P::Element));
    return (bytes + 63) / 64 * 64;
}

template <class P>
static std::int64_t matmul_scratch(const MatmulTask& task) {
    const BatchedProduct product = batched_product(oriented(task));
    const std::int64_t rows = product.a_k == 1 || product.k <= 1 ? 0 : product.m * product.k;
    return packed_bytes<P>(product) + rows * static_cast<std::int64_t>(sizeof(typename P::Element));
}

template <class P>
static void matmul(const MatmulTask& given) {
    using Element = typename P::Element;
    const MatmulTask task = oriented(given);
    const Extent& extent = task.extent;
    BatchedProduct product = batched_product(task);
    auto* memory = static_cast<char*>(task.scratch);
    MatmulScratch<Element> scratch{reinterpret_cast<Element*>(memory),
                                   reinterpret_cast<Element*>(memory + packed_bytes<P>(product))};
    const auto a_of = [&](std::int64_t lane) {
        return lane_data<const Element>(task.a, lane, extent.tangent);
    };
    const auto b_of = [&](std::int64_t lane) {
        return lane_data<const Element>(task.b, lane, extent.tangent);
    };
    const auto y_of = [&](std::int64_t lane) {
        return lane_data<Element>(task.out, lane, false);
    };

    // a of every lane with b of its own lane or, for the terms da_k b, of the primal.
    const bool b_varies = task.b.lanes && !extent.tangent;
    const bool a_varies = task.a.lanes || (extent.tangent && task.a.lane_stride == 0);
    if (!a_varies && !b_varies) {
        BatchedProduct lanes = product;
        lanes.axis[lanes.axes++] = {extent.lanes, task.a.lane_stride, extent.tangent ? 0 : task.b.lane_stride,
                                    task.out.lane_stride};
        multiply_axes<P>(lanes, a_of(0), b_of(0), y_of(0), false, scratch);
    } else {
        for (std::int64_t lane = 0; lane < extent.lanes; ++lane) {
            BatchedProduct own = product;
            if (!a_of(lane)) own.k = 0;  // a sum of nothing
            multiply_axes<P>(own, a_of(lane), b_of(extent.tangent ? 0 : lane), y_of(lane), false, scratch);
        }
    }
    // a db_k
    for (std::int64_t lane = 1; extent.tangent && lane < extent.lanes; ++lane) {
        if (b_of(lane)) multiply_axes<P>(product, a_of(0), b_of(lane), y_of(lane), true, scratch);
    }
}

}  // namespace tqs::panel
