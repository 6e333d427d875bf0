#include "cuda/device/dispatch_warpgroups.cuh"
#include "cuda/launch.cuh"

namespace tqs::cuda {

void warpgroups_float16(const Product& p, const Plan& plan, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the float16 kernel of warpgroups"};
    if (plan.bits == 4) {
        run_warpgroups<Exact<Float16, 4>>(p, plan, launch);
    } else {
        run_warpgroups<Exact<Float16, 8>>(p, plan, launch);
    }
}

}  // namespace tqs::cuda
