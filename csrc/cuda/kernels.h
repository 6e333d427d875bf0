// The kernels of this folder, as host functions that launch them on `stream` of the current device. They throw
// tqs::Error where a launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/kernel_table.h"
#include "cuda/plan.h"

namespace tqs::cuda {

struct Product;  // device/operand.cuh

// Neither task.panels nor a workspace are used. The same bits whatever the number of rows and the device.
void multiply_simple(const QgemmTask& task, DType dtype, const Device& device, cudaStream_t stream);

// The planned kernels on prepacked weights, task.panels. `workspace` holds plan.workspace bytes.
void multiply_prepacked(const QgemmTask& task, const Plan& plan, DType dtype, bool int8, unsigned char* workspace,
                        cudaStream_t stream);

// [rows, columns], contiguous.
void dequantize_weight(const PackedView& weight, float* out, cudaStream_t stream);

// The form of cuda/layout.h of a weight, and of rows of activations.
void prepack_weight(const PackedView& weight, unsigned char* out, cudaStream_t stream);
void quantize_activations(const QgemmTask& task, DType dtype, bool arranged, unsigned char* out, cudaStream_t stream);

// One file each: they take the compiler longest.
void multiply_bfloat16(const Product& p, const Plan& plan, cudaStream_t stream);
void multiply_float16(const Product& p, const Plan& plan, cudaStream_t stream);
void multiply_int8(const Product& p, const Plan& plan, cudaStream_t stream);

// For 9.0a alone; a build without it has no_warpgroups.cpp in their place.
bool has_warpgroups();
void warpgroups_bfloat16(const Product& p, const Plan& plan, cudaStream_t stream);
void warpgroups_float16(const Product& p, const Plan& plan, cudaStream_t stream);
void warpgroups_int8(const Product& p, const Plan& plan, cudaStream_t stream);

}  // namespace tqs::cuda
