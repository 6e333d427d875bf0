// Element types of activations. Weights are packed formats (quant/format.h), not dtypes.
#pragma once

#include <cstdint>

namespace tqs {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };
inline constexpr int kDTypes = 2;  // that CPU kernels take; float16 is widened at the Python edge there
inline constexpr int kCudaDTypes = 3;

// `static`: see csrc/README.md on headers that ISA folders include.
static constexpr const char* dtype_name(DType dtype) {
    return dtype == DType::float32 ? "float32" : dtype == DType::bfloat16 ? "bfloat16" : "float16";
}

}  // namespace tqs
