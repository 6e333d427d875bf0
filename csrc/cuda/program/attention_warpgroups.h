// 16-bit attention by wgmma (device/attention_warpgroups.cuh), for 9.0a alone: a build without it has
// no_attention_warpgroups.cpp in place of attention_warpgroups.cu.
#pragma once

namespace tqs::cuda {

struct TensorArgument;

bool has_attention_warpgroups();

// The tangents of h.lanes lanes from h.a.first_lane on.
void attention_warpgroups_bfloat16(const TensorArgument& h);
void attention_warpgroups_float16(const TensorArgument& h);

}  // namespace tqs::cuda
