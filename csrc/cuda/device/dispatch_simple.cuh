// As dispatch.cuh, for what prepares weights and rows of x, for the simple product and for dequantization.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#include "core/check.h"
#include "cuda/device/arrange_rows.cuh"
#include "cuda/device/dequantize.cuh"
#include "cuda/device/dispatch.cuh"
#include "cuda/device/prepack.cuh"
#include "cuda/device/quantize_rows.cuh"
#include "cuda/device/simple.cuh"
#include "cuda/device/simple_tiles.cuh"
#include "cuda/program/tilings.h"

namespace tqs::cuda {

// run(Constant<bits>) of the bits that weights are packed in.
template <class Run>
void with_bits(int bits, const Run& run) {
    if (bits == 2) return run(Constant<2>{});
    if (bits == 3) return run(Constant<3>{});
    if (bits == 4) return run(Constant<4>{});
    run(Constant<8>{});
}

template <class Launch>
void run_dequantize(const PackedView& weight, float* out, const Launch& launch) {
    const std::int64_t pieces = divide_up(weight.columns, kDequantizePiece), blocks = weight.rows * pieces;
    require(blocks <= std::numeric_limits<std::int32_t>::max(), "dequantize", "expected fewer than 2^31 pieces of ",
            kDequantizePiece, " columns, got ", blocks, "; dequantize a part of the rows at a time");
    const DequantizeTask task{weight, group_width(weight), group_count(weight), row_bytes(weight), pieces, out};
    with_bits(weight.bits, [&](auto bits) {
        launch(dequantize<decltype(bits)::value>, Grid{static_cast<unsigned>(blocks), 1, 1}, kDequantizeThreads, 0,
               task);
    });
}

template <class Launch>
void run_prepack(const PackedView& weight, unsigned char* out, const Launch& launch) {
    const PrepackTask task{weight, weight_layout(weight), row_bytes(weight), group_count(weight), out};
    const std::int64_t words = task.layout.tiles * task.layout.units * 64 * stored_bits(weight.bits);
    const std::int64_t pairs = task.layout.tiles * task.layout.groups * 8;
    const Grid grid{static_cast<unsigned>(divide_up(words > pairs ? words : pairs, kPrepackThreads)), 1, 1};
    with_bits(weight.bits, [&](auto bits) { launch(prepack<decltype(bits)::value>, grid, kPrepackThreads, 0, task); });
}

// x of `task`, 16 bits, arranged into `out`, which holds arranged_bytes(...).
template <class Launch>
void run_arrange_rows(const QgemmTask& task, unsigned char* out, const Launch& launch) {
    const std::int64_t pieces = pad(task.weight.columns, kUnitInputs) / 32;
    const ArrangeRowsTask rows{.x = static_cast<const unsigned char*>(task.x),
                               .x_bytes = task.x_stride * 2,
                               .columns = task.weight.columns,
                               .pieces = pieces,
                               .rows = task.rows,
                               .padded_rows = pad(task.rows, kRowPadding),
                               .out = out};
    launch(arrange_rows, Grid{static_cast<unsigned>(divide_up(task.rows * pieces, kArrangeThreads)), 1, 1},
           kArrangeThreads, 0, rows);
}

// x of `task` rounded to int8 into `out`, which holds activation_layout(...).bytes.
template <class Element, class Launch>
void run_quantize_rows(const QgemmTask& task, bool arranged, unsigned char* out, const Launch& launch) {
    const ActivationLayout layout = activation_layout(task.weight, task.rows, arranged);
    const QuantizeRowsTask rows{.x = task.x,
                                .x_stride = task.x_stride,
                                .columns = task.weight.columns,
                                .padded_columns = layout.padded_columns,
                                .padded_rows = layout.padded_rows,
                                .group_size = static_cast<int>(task.weight.group_size),
                                .arranged = arranged,
                                .codes = out,
                                .scales = reinterpret_cast<float*>(out + layout.scales),
                                .sums = reinterpret_cast<std::int32_t*>(out + layout.sums)};
    launch(quantize_rows<Element>, Grid{static_cast<unsigned>(task.rows), 1, 1}, kQuantizeThreads, kQuantizeShared,
           rows);
}

// Whether tiles are faster: both are limited by issuing instructions, of which a block has so many per input, by nvcc
// 13.0 for sm_90a and 4 bits; what is counted is the multiprocessor with the most blocks.
inline bool simple_takes_tiles(const QgemmTask& task, int multiprocessors) {
    constexpr std::int64_t kTile = 224, kFew = 15;
    const std::int64_t outputs = task.weight.rows, edge = SimpleTile::kEdge;
    const std::int64_t tiles = divide_up(task.rows, edge) * divide_up(outputs, edge);
    const std::int64_t few = divide_up(task.rows, kSimpleRows) * divide_up(outputs, kSimpleOutputs);
    return divide_up(tiles, multiprocessors) * kTile < divide_up(few, multiprocessors) * kFew;
}

template <class Element, class Launch>
void run_simple(const QgemmTask& task, int multiprocessors, const Launch& launch) {
    constexpr std::int64_t kMostGridRows = 65535;
    const PackedView& weight = task.weight;
    const std::int64_t parts = divide_up(weight.columns, kSimplePart), pairs = divide_up(parts, kSimpleParts);
    const int warps = static_cast<int>(std::min<std::int64_t>(pairs, kSimpleWarps));
    const int shift = weight.group_size == 0 ? 62 : std::countr_zero(static_cast<std::uint64_t>(weight.group_size));
    const SimpleTask argument{task, group_count(weight), row_bytes(weight), shift, parts, warps};
    const auto few = [&](auto bits, auto rows) {
        constexpr int kRows = decltype(rows)::value;
        const std::int64_t blocks = divide_up(task.rows, kRows);
        const Grid grid{static_cast<unsigned>(divide_up(weight.rows, kSimpleOutputs)),
                        static_cast<unsigned>(std::min(blocks, kMostGridRows)), 1};
        launch(simple<Element, decltype(bits)::value, kRows>, grid, 32 * warps,
               sizeof(float) * warps * simple_warp_floats(kRows), argument);
    };
    with_bits(weight.bits, [&](auto bits) {
        if constexpr (std::is_same_v<Element, float>) {
            if (simple_takes_tiles(task, multiprocessors)) {
                const std::int64_t tiles =
                    divide_up(task.rows, SimpleTile::kEdge) * divide_up(weight.rows, SimpleTile::kEdge);
                launch(simple_tiles<decltype(bits)::value>, Grid{static_cast<unsigned>(tiles), 1, 1}, kProductThreads,
                       shared_bytes(SimpleTile::kSharedBytes), argument);
                return;
            }
        }
        if (task.rows == 1) return few(bits, Constant<1>{});
        few(bits, Constant<kSimpleRows>{});
    });
}

}  // namespace tqs::cuda
