// From a plan to the kernel that was compiled for it. `launch(kernel, grid, threads, shared bytes, argument)` runs it:
// on a stream (launch.cuh), or emulated.
#pragma once

#include "cuda/device/gemv.cuh"
#include "cuda/device/operand.cuh"
#include "cuda/device/prepack.cuh"
#include "cuda/device/quantize_rows.cuh"
#include "cuda/device/simple.cuh"
#include "cuda/device/tiles.cuh"
#include "cuda/geometry.h"
#include "cuda/grid.h"
#include "cuda/plan.h"

namespace tqs::cuda {

template <int value_>
struct Constant {
    static constexpr int value = value_;
};

template <class Operand, class Group, class Launch>
void run_group(const Product& p, const Plan& plan, Group, const Launch& launch) {
    constexpr int group = Group::value, bits = Operand::bits;
    const Grid grid{static_cast<unsigned>(plan.output_blocks), static_cast<unsigned>(plan.row_blocks),
                    static_cast<unsigned>(plan.splits)};
    if (plan.kernel == Kernel::gemv) {
        launch(gemv<Operand, group>, grid, kGemvThreads, gemv_shared_bytes(Operand::kInt8, group), p);
        return;
    }
    const auto run = [&](auto columns) {
        constexpr int kColumns = decltype(columns)::value;
        launch(tiles<Operand, group, kColumns>, grid, kTilesThreads,
               tiles_shared_bytes(Operand::kInt8, bits, group, kColumns), p);
    };
    if (plan.columns == 16) {
        run(Constant<16>{});
    } else if (plan.columns == 32) {
        run(Constant<32>{});
    } else {
        run(Constant<64>{});
    }
}

// The product on a prepacked weight, x already as the operand wants it.
template <class Operand, class Launch>
void run_product(const Product& p, const Plan& plan, const Launch& launch) {
    if (plan.group == 32) {
        run_group<Operand>(p, plan, Constant<32>{}, launch);
    } else if (plan.group == 64) {
        run_group<Operand>(p, plan, Constant<64>{}, launch);
    } else if (plan.group == 128) {
        run_group<Operand>(p, plan, Constant<128>{}, launch);
    } else if constexpr (Operand::kInt8) {
        run_group<Operand>(p, plan, Constant<0>{}, launch);
    }
}

template <class Launch>
void run_prepack(const PackedView& weight, unsigned char* out, const Launch& launch) {
    const PrepackTask task{weight, weight_layout(weight), row_bytes(weight), group_count(weight), out};
    const std::int64_t words = task.layout.tiles * task.layout.units * 64 * stored_bits(weight.bits);
    const std::int64_t pairs = task.layout.tiles * task.layout.groups * 8;
    const Grid grid{static_cast<unsigned>(divide_up(words > pairs ? words : pairs, kPrepackThreads)), 1, 1};
    const auto run = [&](auto bits) {
        launch(prepack<decltype(bits)::value>, grid, kPrepackThreads, 0, task);
    };
    if (weight.bits == 2) {
        run(Constant<2>{});
    } else if (weight.bits == 3) {
        run(Constant<3>{});
    } else if (weight.bits == 4) {
        run(Constant<4>{});
    } else {
        run(Constant<8>{});
    }
}

// x of `task` rounded to int8 into `out`, which holds activation_layout(...).bytes.
template <class Element, class Launch>
void run_quantize_rows(const QgemmTask& task, unsigned char* out, const Launch& launch) {
    const ActivationLayout layout = activation_layout(task.weight, task.rows);
    const QuantizeRowsTask rows{.x = task.x,
                                .x_stride = task.x_stride,
                                .columns = task.weight.columns,
                                .padded_columns = layout.padded_columns,
                                .padded_rows = layout.padded_rows,
                                .group_size = static_cast<int>(task.weight.group_size),
                                .codes = reinterpret_cast<std::int8_t*>(out),
                                .scales = reinterpret_cast<float*>(out + layout.scales),
                                .sums = reinterpret_cast<std::int32_t*>(out + layout.sums)};
    launch(quantize_rows<Element>, Grid{static_cast<unsigned>(task.rows), 1, 1}, kQuantizeThreads, kQuantizeShared,
           rows);
}

template <class Element, class Launch>
void run_simple(const QgemmTask& task, const Launch& launch) {
    constexpr std::int64_t kMostGridRows = 65535;
    const SimpleTask simple_task{task, group_width(task.weight), group_count(task.weight), row_bytes(task.weight)};
    const std::int64_t blocks = divide_up(task.rows, kSimpleRows);
    const Grid grid{static_cast<unsigned>(divide_up(task.weight.rows, kSimpleWarps)),
                    static_cast<unsigned>(blocks < kMostGridRows ? blocks : kMostGridRows), 1};
    const auto run = [&](auto bits) {
        launch(simple<Element, decltype(bits)::value>, grid, kSimpleThreads, 0, simple_task);
    };
    if (task.weight.bits == 2) {
        run(Constant<2>{});
    } else if (task.weight.bits == 3) {
        run(Constant<3>{});
    } else if (task.weight.bits == 4) {
        run(Constant<4>{});
    } else {
        run(Constant<8>{});
    }
}

// The arguments of a kernel on prepacked weights; `workspace` holds plan.workspace bytes.
inline Product product_arguments(const QgemmTask& task, const Plan& plan, DType dtype, bool int8,
                                 unsigned char* workspace) {
    const PackedView& weight = task.weight;
    const WeightLayout layout = weight_layout(weight);
    const ActivationLayout rows = activation_layout(weight, task.rows);
    const unsigned char* activations = workspace + plan.activations;
    Product p{};
    p.x = int8 ? activations : static_cast<const unsigned char*>(task.x);
    p.x_bytes = int8 ? rows.padded_columns : task.x_stride * 2;
    p.row_scales = reinterpret_cast<const float*>(activations + rows.scales);
    p.row_sums = reinterpret_cast<const std::int32_t*>(activations + rows.sums);
    p.padded_rows = rows.padded_rows;
    p.rows = static_cast<int>(task.rows);
    p.inputs = static_cast<int>(int8 ? rows.padded_columns : weight.columns);
    p.outputs = static_cast<int>(weight.rows);
    p.codes = task.panels;
    p.scales = reinterpret_cast<const std::uint32_t*>(task.panels + layout.scales);
    p.zeros = weight.zeros ? reinterpret_cast<const std::uint16_t*>(task.panels + layout.zeros) : nullptr;
    p.zero = 1 << (weight.bits - 1);
    p.tiles = static_cast<int>(layout.tiles);
    p.units = static_cast<int>(layout.units);
    p.groups = static_cast<int>(layout.groups);
    p.bias = task.bias;
    p.y = task.y;
    p.y_stride = task.y_stride;
    p.dtype = static_cast<int>(dtype);
    p.splits = plan.splits;
    p.partials = workspace + plan.partials;
    p.counters = reinterpret_cast<unsigned*>(workspace);
    return p;
}

}  // namespace tqs::cuda
