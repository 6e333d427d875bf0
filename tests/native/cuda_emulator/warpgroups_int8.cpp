#include "cuda/device/dispatch_warpgroups.cuh"
#include "kernels.h"

namespace tqs::cuda {

void warpgroups_int8(const Product& p, const Plan& plan) {
    if (plan.bits == 4) {
        run_warpgroups<Int8<4>>(p, plan, EmulatedLaunch{});
    } else {
        run_warpgroups<Int8<8>>(p, plan, EmulatedLaunch{});
    }
}

}  // namespace tqs::cuda
