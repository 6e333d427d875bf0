// Attention on the GPU: what attention.cu and attention_tensor.cu share.
#pragma once

#include <limits>

#include "core/check.h"
#include "cuda/device/attention.cuh"
#include "cuda/device/elements.cuh"

namespace tqs::cuda {

AttentionArgument argument_of(const AttentionTask& task);

inline unsigned blocks_of(std::int64_t count, const char* what) {
    require(count <= std::numeric_limits<std::int32_t>::max(), "attention", "expected fewer than 2^31 blocks of ", what,
            ", got ", count, "; use fewer samples");
    return static_cast<unsigned>(count);
}

// On tensor cores (device/attention_tensor.cuh): 16 bits, D and E multiples of 8 up to 128, rows of q, k, v and out
// adjacent and 16-byte aligned in all lanes and samples.
bool takes_tensor_attention(const AttentionTask& task);
std::int64_t tensor_attention_scratch(const AttentionTask& task);
template <class Element>
void tensor_attention(const AttentionTask& task);
extern template void tensor_attention<Bfloat16>(const AttentionTask& task);
extern template void tensor_attention<Float16>(const AttentionTask& task);

}  // namespace tqs::cuda
