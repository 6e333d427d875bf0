// The packed format back to float32, exactly (quant/format.h: value).
#pragma once

#include "core/view.h"
#include "quant/format.h"

namespace tqs {

// out [N, K]. Throws ArgumentError when the shapes differ.
void dequantize(const PackedView& packed, MatrixView<float> out, int threads);

}  // namespace tqs
