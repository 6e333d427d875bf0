// The kernels of this folder: plain loops that say what the others must compute. Compiled without auto-vectorisation
// and without contraction, so that they are also a measure of what vector code gains.
#pragma once

#include "backend/kernel_table.h"

namespace tqs::scalar {

extern const QuantizeKernel kQuantize[kFormats];
extern const DequantizeKernel kDequantize[kFormats];
extern const ActivationBytes kActivationBytes[tqs::kActivations];
extern const ActivationKernel kActivations[tqs::kActivations][kDTypes];
extern const QgemmKernel kQgemm[tqs::kActivations][kDTypes][kFormats];
extern const PrepackKernel kPrepack[kFormats];
extern const GatesKernel kGates[kRecurrences];

// Native programs, one file per family.
extern const ProductKernels kProducts[kPrecisions];
extern const AttentionKernels kAttention[kPrecisions];
extern const ElementwiseKernels kElementwise[kPrecisions];
extern const RowKernels kRows[kPrecisions];
extern const MovementKernels kMovement[kPrecisions];

std::int64_t scratch_bytes(const PackedView& weight);
// The scalar layout is the portable form itself: a copy of the codes.
std::int64_t prepacked_bytes(const PackedView& weight);

}  // namespace tqs::scalar
