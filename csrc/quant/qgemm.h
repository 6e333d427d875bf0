// y = x dequantize(W)^T + bias: validates once, dispatches once, shares output columns among threads.
// What the result is, and to what accuracy: QgemmKernel in backend/kernel_table.h.
#pragma once

#include "backend/kernel_table.h"
#include "quant/prepared.h"

namespace tqs {

// task.panels must be null. threads = 0: the default, or one where the work is too small to share.
void qgemm(QgemmTask task, DType dtype, Activation activation, int threads);

// As above on prepacked weights; task.weight is taken from `prepared`.
// Throws ArgumentError when `prepared` was made for another ISA than the active one.
void qgemm(QgemmTask task, const Prepared& prepared, DType dtype, Activation activation, int threads);

// cuda::qgemm, checked. Throws Error without CUDA in the build.
std::int64_t qgemm_cuda(const QgemmTask& task, DType dtype, Activation activation, cuda::Workspace workspace,
                        int device, std::uintptr_t stream);

}  // namespace tqs
