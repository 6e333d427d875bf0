// The kernels of this folder, instances of cpu/panel over vector.h. A kernel that outgrows the common form replaces its
// entry in the file of its op.
#pragma once

#include "backend/kernel_table.h"

namespace tqs::neon {

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
std::int64_t prepacked_bytes(const PackedView& weight);

}  // namespace tqs::neon
