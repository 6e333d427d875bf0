#include "kernels.h"

namespace tqs::cuda {

void multiply_float16(const Product& p, const Plan& plan) {
    if (plan.bits == 4) {
        run_product<Exact<Float16, 4>>(p, plan, EmulatedLaunch{});
    } else {
        run_product<Exact<Float16, 8>>(p, plan, EmulatedLaunch{});
    }
}

}  // namespace tqs::cuda
