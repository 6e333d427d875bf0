// The kernels of warpgroups in a build without 9.0a: no plan names them.
#include "core/check.h"
#include "cuda/kernels.h"

namespace tqs::cuda {
namespace {

[[noreturn]] void refuse() {
    throw Error(message("qgemm", "this build has no kernels for 9.0a; build with TQS_CUDA_ARCHITECTURES=80;90a"));
}

}  // namespace

bool has_warpgroups() {
    return false;
}

void warpgroups_bfloat16(const Product&, const Plan&, cudaStream_t) {
    refuse();
}

void warpgroups_float16(const Product&, const Plan&, cudaStream_t) {
    refuse();
}

void warpgroups_int8(const Product&, const Plan&, cudaStream_t) {
    refuse();
}

}  // namespace tqs::cuda
