#include "kernels.h"

namespace tqs::cuda {

void multiply_bfloat16(const Product& p, const Plan& plan) {
    if (plan.bits == 4) {
        run_product<Exact<Bfloat16, 4>>(p, plan, EmulatedLaunch{});
    } else {
        run_product<Exact<Bfloat16, 8>>(p, plan, EmulatedLaunch{});
    }
}

}  // namespace tqs::cuda
