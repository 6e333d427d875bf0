// What leaves a tile after a step.
#pragma once

#include <cmath>
#include <cstdint>

#include "rollout/tile.h"

namespace tqs {

// The output of a step as [block, C], whatever its rank: a batch of one, then C or block and C.
struct OutputShape {
    std::int64_t block, channels, block_stride, channel_stride;
};

OutputShape output_shape(const Program& program);

// Copies lane `lane`, sample `sample`, block value `value` of the output to channels [C] at `out` (output's precision).
void copy_channels(const Operand& output, const OutputShape& shape, const char* from, void* out);

// Where lane, sample, value of the output begins; null for a tangent that is zero.
const char* output_at(const Operand& output, const OutputShape& shape, std::int64_t lane, std::int64_t sample,
                      std::int64_t value, bool tangent);

// mean over channels of ((y - reference) / scale)^2, a null reference being 0; infinite where that is not finite.
double squared_error(const Operand& output, const OutputShape& shape, const char* y, const char* reference,
                     const double* scale);

}  // namespace tqs
