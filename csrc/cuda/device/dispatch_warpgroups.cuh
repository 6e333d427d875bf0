// From a plan to the kernel of warpgroups that was compiled for it, as dispatch.cuh for the others.
#pragma once

#include "cuda/device/dispatch.cuh"
#include "cuda/device/warpgroups.cuh"

namespace tqs::cuda {

// The product on a prepacked weight, x arranged.
template <class Operand, class Launch>
void run_warpgroups(const Product& p, const Plan& plan, const Launch& launch) {
    const Grid grid{static_cast<unsigned>(plan.output_blocks), static_cast<unsigned>(plan.row_blocks),
                    static_cast<unsigned>(plan.splits), kClusterBlocks};
    with_group<Operand>(plan, [&](auto group) {
        constexpr int kGroup = decltype(group)::value;
        const auto run = [&](auto columns) {
            constexpr int kColumns = decltype(columns)::value;
            launch(warpgroups<Operand, kGroup, kColumns>, grid, kWarpgroupsThreads,
                   warpgroups_shared_bytes(Operand::kInt8, Operand::bits, kGroup, kColumns), p);
        };
        if (plan.columns == 64) {
            run(Constant<64>{});
        } else {
            run(Constant<128>{});
        }
    });
}

}  // namespace tqs::cuda
