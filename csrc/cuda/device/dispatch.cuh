// From a plan to the kernel on prepacked weights that was compiled for it. `launch(kernel, grid, threads, shared bytes,
// argument)` runs it: on a stream (launch.cuh), or emulated.
#pragma once

#include "cuda/device/gemv.cuh"
#include "cuda/device/operand.cuh"
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
        const auto run = [&](auto columns) {
            constexpr int kColumns = decltype(columns)::value;
            launch(gemv<Operand, group, kColumns>, grid, kGemvThreads,
                   gemv_shared_bytes(Operand::kInt8, group, kColumns), p);
        };
        if constexpr (gemv_columns(Operand::kInt8, group) > kGemvRows) {
            if (plan.columns > kGemvRows) return run(Constant<2 * kGemvRows>{});
        }
        return run(Constant<kGemvRows>{});
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

// run(Constant<group>) for the group of a plan; only int8 operands have kernels for 0.
template <class Operand, class Run>
void with_group(const Plan& plan, const Run& run) {
    if (plan.group == 32) {
        run(Constant<32>{});
    } else if (plan.group == 64) {
        run(Constant<64>{});
    } else if (plan.group == 128) {
        run(Constant<128>{});
    } else if constexpr (Operand::kInt8) {
        run(Constant<0>{});
    }
}

// The product on a prepacked weight, x already as the operand wants it.
template <class Operand, class Launch>
void run_product(const Product& p, const Plan& plan, const Launch& launch) {
    with_group<Operand>(plan, [&](auto group) { run_group<Operand>(p, plan, group, launch); });
}

// The arguments of a kernel on prepacked weights; `workspace` holds plan.workspace bytes.
inline Product product_arguments(const QgemmTask& task, const Plan& plan, DType dtype, bool int8,
                                 unsigned char* workspace) {
    const PackedView& weight = task.weight;
    const WeightLayout layout = weight_layout(weight);
    const bool arranged = plan.kernel == Kernel::warpgroups;
    const ActivationLayout rows = activation_layout(weight, task.rows, arranged);
    const unsigned char* activations = workspace + plan.activations;
    Product p{};
    p.x = int8 || arranged ? activations : static_cast<const unsigned char*>(task.x);
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
