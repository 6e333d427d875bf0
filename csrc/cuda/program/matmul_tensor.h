// Products of two activations on the tensor cores (matmul_tensor.cu).
#pragma once

#include "backend/program_kernels.h"

namespace tqs::cuda {

// Whether both are of 16 bits, with adjacent k in a, adjacent k or columns in b, and rows of either at multiples of 16
// bytes.
bool fits_matmul_tensor(const MatmulTask& task);
void multiply_matmul_tensor(const MatmulTask& task);

}  // namespace tqs::cuda
