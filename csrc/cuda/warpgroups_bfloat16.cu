#include "cuda/device/dispatch_warpgroups.cuh"
#include "cuda/launch.cuh"

namespace tqs::cuda {

void warpgroups_bfloat16(const Product& p, const Plan& plan, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the bfloat16 kernel of warpgroups"};
    if (plan.bits == 4) {
        run_warpgroups<Exact<Bfloat16, 4>>(p, plan, launch);
    } else {
        run_warpgroups<Exact<Bfloat16, 8>>(p, plan, launch);
    }
}

}  // namespace tqs::cuda
