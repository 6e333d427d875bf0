// Matrix products with prepacked weights, for a vector ISA. A panel is P = V::kPanel columns of y (rows of w):
//
//   panels  Element [ceil(N / P)][K][P]: element (p, k, j) is w[p P + j, k], 0 where p P + j >= N.
//
//                           panel w [K, P]                  per k: 2 loads of w, `rows` broadcasts of a,
//                        +----------+----------+            2 rows fused multiply-adds into registers
//     a [rows, K]        |  vector  |  vector  |
//     r: a[r, k] ->      | sums[r,0]| sums[r,1]|  -> y[r, first ... first + P)
//
// Each lane of a register sums its own element of y over k in index order and starts from the bias (or from y, where
// the task accumulates). There is neither a horizontal sum nor a remainder over k, so the bits of an element depend on
// its row of a, its row of w and its start alone, not on M, on its place in a block, or on how K is cut into tasks that
// accumulate. |y - exact| <= (K + 1) u (sum |a||w| + |start|), u the unit roundoff.
//
// Rows of a block. A processor with two multiply-adds per cycle and a latency of four needs eight independent sums; a
// block of 12 rows x 2 vectors has 24 (AVX-512: 24 sums, 2 of w, 1 of a, of 32 registers; AVX2: 6 rows, 15 of 16).
// Its 14 loads per 24 multiply-adds stay below the two loads per cycle of the L1 cache. Rows have a pointer each, as
// they may lie anywhere; with 12 of them all fit the general registers, with 14 they no longer do (measured: 2 to 4 %
// slower at 14). Below four rows there are too few sums, so that several panels go side by side.
//
// Caches. One pass over a panel takes 2 rows K multiply-adds and reads K P elements: at 12 rows 128 bytes per 12
// cycles, which the L2 cache sustains, so that K is not cut even where a panel exceeds L1. a is cut into chunks of at
// most kChunkBytes, which stay in L2 while every panel passes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/program_kernels.h"
#include "cpu/panel/dispatch_rows.h"

namespace tqs::panel {

inline constexpr std::int64_t kChunkBytes = 256 * 1024;
inline constexpr int kChunkBlocks = 8;

template <class V>
static std::int64_t packed_elements(std::int64_t n, std::int64_t k) {
    return (n + V::kPanel - 1) / V::kPanel * V::kPanel * k;
}

template <class V>
static void pack(const void* data, std::int64_t n, std::int64_t k, std::int64_t stride_n, std::int64_t stride_k,
                 void* panels) {
    using Element = typename V::Element;
    const auto* w = static_cast<const Element*>(data);
    auto* out = static_cast<Element*>(panels);
    // k in strips: the scattered side of the transposition, reads or writes, then stays within L1.
    constexpr std::int64_t strip = 16;
    for (std::int64_t first = 0; first < n; first += V::kPanel, out += k * V::kPanel) {
        const std::int64_t count = std::min<std::int64_t>(V::kPanel, n - first);
        const Element* from = w + first * stride_n;
        if (stride_n == 1 && count == V::kPanel) {
            for (std::int64_t i = 0; i < k; ++i) std::copy_n(from + i * stride_k, V::kPanel, out + i * V::kPanel);
            continue;
        }
        for (std::int64_t begin = 0; begin < k; begin += strip) {
            const std::int64_t end = std::min(begin + strip, k);
            for (std::int64_t j = 0; j < V::kPanel; ++j) {
                for (std::int64_t i = begin; i < end; ++i) {
                    out[i * V::kPanel + j] = j < count ? from[j * stride_n + i * stride_k] : Element(0);
                }
            }
        }
    }
}

// Rows of a and y, and columns [first, first + columns) of y, of which a kernel takes its own part.
template <class Element>
struct Block {
    const Element* const* a;
    Element* const* y;
    std::int64_t first, columns;
    const Element* bias;  // of column `first`, or null
    bool accumulate;
    std::int64_t k;
    std::int64_t panel_elements;
};

// `vectors` of each of `panels` panels meet `rows` rows. Left to itself GCC unrolls the short loops only after it has
// given the arrays a place on the stack; asked for early, they are registers (2 to 6 % at K = 128).
template <class V, int rows, int panels, int vectors>
static inline void multiply(const Block<typename V::Element>& block, const typename V::Element* w) {
    using Element = typename V::Element;
    constexpr int width = panels * vectors;
    const Element* a[rows];
    typename V::Float sums[rows][width];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) a[r] = block.a[r];
#pragma GCC unroll 16
    for (int v = 0; v < width; ++v) {
        const std::int64_t at = v * V::kLanes, left = block.columns - at;
        const auto start = block.bias ? V::load_first(block.bias + at, left) : V::broadcast(0);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            sums[r][v] = block.accumulate ? V::add(start, V::load_first(block.y[r] + block.first + at, left)) : start;
        }
    }
    for (std::int64_t k = 0; k < block.k; ++k, w += V::kPanel) {
        typename V::Float weights[width];
#pragma GCC unroll 16
        for (int v = 0; v < width; ++v) {
            weights[v] = V::load(w + v / vectors * block.panel_elements + v % vectors * V::kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const auto value = V::broadcast(a[r][k]);
#pragma GCC unroll 16
            for (int v = 0; v < width; ++v) sums[r][v] = V::multiply_add(value, weights[v], sums[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int v = 0; v < width; ++v) {
        const std::int64_t at = v * V::kLanes;
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) V::store_first(block.y[r] + block.first + at, sums[r][v], block.columns - at);
    }
}

// Panels side by side, where a block has too few rows to fill the registers with sums.
template <class V>
static constexpr int panels_together(std::int64_t rows) {
    return 4 * rows <= V::kRows ? 4 : 2 * rows <= V::kRows ? 2 : 1;
}

template <class V>
static void gemm(const GemmTask& task) {
    using Element = typename V::Element;
    constexpr int most = V::kRows;
    const std::int64_t rows = task.outer * task.inner;
    const auto* panels = static_cast<const Element*>(task.panels);
    const std::int64_t panel_elements = task.k * V::kPanel;
    // Blocks differ by at most one row, so that no remainder is a block with too few sums.
    const std::int64_t blocks = (rows + most - 1) / most;
    const std::int64_t together = blocks == 1 ? panels_together<V>(rows) : 1;
    const std::int64_t row_bytes = std::max<std::int64_t>(1, task.k) * static_cast<std::int64_t>(sizeof(Element));
    const std::int64_t chunk = std::clamp<std::int64_t>(kChunkBytes / (most * row_bytes), 1, kChunkBlocks);
    for (std::int64_t begin = 0; begin < blocks; begin += chunk) {
        const std::int64_t taken_blocks = std::min(chunk, blocks - begin);
        const std::int64_t first_row = rows * begin / blocks;
        std::int64_t ends[kChunkBlocks];  // of the blocks' rows, from first_row
        for (std::int64_t b = 0; b < taken_blocks; ++b) ends[b] = rows * (begin + b + 1) / blocks - first_row;
        const Element* a[kChunkBlocks * most];
        Element* y[kChunkBlocks * most];
        std::int64_t outer = first_row / task.inner, inner = first_row % task.inner;
        for (std::int64_t m = 0; m < ends[taken_blocks - 1]; ++m) {
            a[m] = static_cast<const Element*>(task.a) + outer * task.a_outer + inner * task.a_inner;
            y[m] = static_cast<Element*>(task.y) + outer * task.y_outer + inner * task.y_inner;
            if (++inner == task.inner) inner = 0, ++outer;
        }
        for (std::int64_t n = 0; n < task.n;) {
            const std::int64_t columns = task.n - n;
            const std::int64_t taken = columns >= together * V::kPanel ? together * V::kPanel : V::kPanel;
            const Element* w = panels + n / V::kPanel * panel_elements;
            const auto* bias = task.bias ? static_cast<const Element*>(task.bias) + n : nullptr;
            for (std::int64_t b = 0, at = 0; b < taken_blocks; at = ends[b++]) {
                const std::int64_t count = ends[b] - at;
                const Block<Element> block{a + at, y + at, n, columns, bias, task.accumulate, task.k, panel_elements};
                dispatch_rows<most>(count, [&](auto fixed) {
                    constexpr int rows_fixed = fixed.value;
                    constexpr int side_by_side = panels_together<V>(rows_fixed);
                    if (taken > V::kPanel) {
                        multiply<V, rows_fixed, side_by_side, 2>(block, w);
                    } else if (columns > V::kLanes) {
                        multiply<V, rows_fixed, 1, 2>(block, w);
                    } else {
                        multiply<V, rows_fixed, 1, 1>(block, w);
                    }
                });
            }
            n += taken;
        }
    }
}

// What matmul.h and depthwise.h are written over.
template <class V>
struct Products {
    using Element = typename V::Element;
    static constexpr auto packed_elements = panel::packed_elements<V>;
    static constexpr auto pack = panel::pack<V>;
    static constexpr auto gemm = panel::gemm<V>;
    static Element multiply_add(Element a, Element b, Element c) { return V::multiply_add(a, b, c); }
};

}  // namespace tqs::panel
