#include "cuda/device/dispatch_warpgroups.cuh"
#include "cuda/launch.cuh"

namespace tqs::cuda {

bool has_warpgroups() {
    return true;
}

void warpgroups_int8(const Product& p, const Plan& plan, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the int8 kernel of warpgroups"};
    if (plan.bits == 4) {
        run_warpgroups<Int8<4>>(p, plan, launch);
    } else {
        run_warpgroups<Int8<8>>(p, plan, launch);
    }
}

}  // namespace tqs::cuda
