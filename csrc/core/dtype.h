// Element types of activations. Weights are packed formats (quant/format.h), not dtypes.
#pragma once

#include <cstdint>

namespace tqs {

enum class DType : int { float32 = 0, bfloat16 = 1 };
inline constexpr int kDTypes = 2;

// `static`: see csrc/README.md on headers that ISA folders include.
static constexpr const char* dtype_name(DType dtype) {
    return dtype == DType::float32 ? "float32" : "bfloat16";
}

}  // namespace tqs
