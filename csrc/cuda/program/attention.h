// Attention on the GPU: what attention.cu and attention_tensor.cu share.
#pragma once

#include <limits>

#include "core/check.h"
#include "cuda/device/attention.cuh"
#include "cuda/device/elements.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

AttentionArgument argument_of(const AttentionTask& task);

inline bool has_mask(const AttentionTask& task) {
    return task.mask.data || task.mask.lanes;
}
// Whether all rows of all lanes begin at multiples of 16 bytes of 16-bit elements, if the first ones do.
inline bool steps_aligned(const Operand& x, const Extent& extent) {
    bool result = x.strides[x.rank - 1] == 1 && x.lane_stride % 8 == 0;
    for (int axis = 0; axis + 1 < x.rank; ++axis) result = result && axis_stride(x, axis) % 8 == 0;
    return result && (extent.samples == 1 || x.sample_stride % 8 == 0);
}

inline unsigned blocks_of(std::int64_t count, const char* what) {
    require(count <= std::numeric_limits<std::int32_t>::max(), "attention", "expected fewer than 2^31 blocks of ", what,
            ", got ", count, "; use fewer samples");
    return static_cast<unsigned>(count);
}

// On tensor cores (device/attention_tensor.cuh): 16 bits, D and E multiples of 8 up to 128, rows of q, k, v and out
// adjacent and 16-byte aligned in all lanes and samples.
bool takes_tensor_attention(const AttentionTask& task);
std::int64_t tensor_attention_scratch(const AttentionTask& task);
// `whole_vectors`: rows of the mask have room for a multiple of 8 elements.
template <class Element>
void tensor_attention(const AttentionTask& task, bool whole_vectors);
extern template void tensor_attention<Bfloat16>(const AttentionTask& task, bool whole_vectors);
extern template void tensor_attention<Float16>(const AttentionTask& task, bool whole_vectors);

}  // namespace tqs::cuda
