// The kernels of programs (backend/program_kernels.h) on the GPU, a family each: one .cu file of this folder with the
// entries, which prepare the argument and launch, over device code in csrc/cuda/device/<family>.cuh.
//
// Tables have one entry per precision; those of 16 bits compute in float32 and round what they store. What a table's
// `x_scratch` returns is device memory. Results do not depend on how a rollout is cut into tiles, nor on the order in
// which threads run: an element is computed by operations and in an order that follow from the sizes of its own lane
// and sample.
#pragma once

#include "backend/program_kernels.h"

namespace tqs::cuda {

extern const ElementwiseKernels elementwise_kernels[kPrecisions];  // elementwise.cu
extern const RowKernels row_kernels[kPrecisions];                  // rows.cu
extern const MovementKernels movement_kernels[kPrecisions];        // movement.cu
extern const AttentionKernels attention_kernels[kPrecisions];      // attention.cu
extern const ProductKernels product_kernels[kPrecisions];          // products.cu, and from depthwise.cu:

std::int64_t depthwise_scratch(const DepthwiseTask& task);
struct Bfloat16;  // device/elements.cuh
struct Float16;
template <class Stored>
void depthwise(const DepthwiseTask& task);
extern template void depthwise<float>(const DepthwiseTask& task);
extern template void depthwise<double>(const DepthwiseTask& task);
extern template void depthwise<Bfloat16>(const DepthwiseTask& task);
extern template void depthwise<Float16>(const DepthwiseTask& task);

}  // namespace tqs::cuda
