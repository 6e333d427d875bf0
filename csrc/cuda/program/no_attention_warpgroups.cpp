// 16-bit attention in a build without 9.0a: the kernel of mma.sync takes all.
#include "core/check.h"
#include "cuda/program/attention_warpgroups.h"

namespace tqs::cuda {
namespace {

[[noreturn]] void refuse() {
    throw Error(message("attention", "this build has no kernels for 9.0a; build with TQS_CUDA_ARCHITECTURES=80;90a"));
}

}  // namespace

bool has_attention_warpgroups() {
    return false;
}

void attention_warpgroups_bfloat16(const TensorArgument&) {
    refuse();
}

void attention_warpgroups_float16(const TensorArgument&) {
    refuse();
}

}  // namespace tqs::cuda
