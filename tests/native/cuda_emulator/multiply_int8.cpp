#include "kernels.h"

namespace tqs::cuda {

void multiply_int8(const Product& p, const Plan& plan) {
    if (plan.bits == 4) {
        run_product<Int8<4>>(p, plan, EmulatedLaunch{});
    } else {
        run_product<Int8<8>>(p, plan, EmulatedLaunch{});
    }
}

}  // namespace tqs::cuda
