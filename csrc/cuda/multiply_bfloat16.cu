#include "cuda/launch.cuh"

namespace tqs::cuda {

void multiply_bfloat16(const Product& p, const Plan& plan, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the bfloat16 kernel"};
    if (plan.bits == 4) {
        run_product<Exact<Bfloat16, 4>>(p, plan, launch);
    } else {
        run_product<Exact<Bfloat16, 8>>(p, plan, launch);
    }
}

}  // namespace tqs::cuda
