#include "cuda/device/dispatch_warpgroups.cuh"
#include "kernels.h"

namespace tqs::cuda {

void warpgroups_float16(const Product& p, const Plan& plan) {
    if (plan.bits == 4) {
        run_warpgroups<Exact<Float16, 4>>(p, plan, EmulatedLaunch{});
    } else {
        run_warpgroups<Exact<Float16, 8>>(p, plan, EmulatedLaunch{});
    }
}

}  // namespace tqs::cuda
