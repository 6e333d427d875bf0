#include "cuda/launch.cuh"

namespace tqs::cuda {

void multiply_int8(const Product& p, const Plan& plan, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the int8 kernel"};
    if (plan.bits == 4) {
        run_product<Int8<4>>(p, plan, launch);
    } else {
        run_product<Int8<8>>(p, plan, launch);
    }
}

}  // namespace tqs::cuda
