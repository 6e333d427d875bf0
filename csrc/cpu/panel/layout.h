// The two shapes in which the vector ISAs hold weights. A panel is P consecutive output rows (P = Vector::kPanel).
//
//   decoded    float [Kp, P]: element (k, j) is value[first + j, k]; 0 for rows beyond N. Kp = K rounded up to
//   Vector::kLanes;
//              rows k >= K are never read by the product. One panel at a time, in scratch.
//   prepacked  the whole weight, panel after panel, each of panel_bytes():
//                scales float [G, P], zeros float [G, P]   (scale 0 for rows beyond N)
//                codes  uint8 [K, P] for 8 bits; [K, P / 2] for 2, 3 and 4 bits, where byte j of a row k holds the code
//                       of output j in its low and of output j + P / 2 in its high half.
//              Unpacking then needs no transposition and no per-row bit offsets. 2 and 3 bits spend 4 bits here: the
//              prepacked form trades memory for a decode of two instructions.
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace tqs::panel {

static constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static constexpr std::int64_t code_row_bytes(int bits, std::int64_t panel) {
    return bits == 8 ? panel : panel / 2;
}

// A multiple of 64, so that every panel keeps the alignment of the first.
static constexpr std::int64_t panel_bytes(const PackedView& weight, std::int64_t panel) {
    const std::int64_t scales_and_zeros = group_count(weight) * panel * 2 * static_cast<std::int64_t>(sizeof(float));
    return round_up(scales_and_zeros + weight.columns * code_row_bytes(weight.bits, panel), 64);
}

}  // namespace tqs::panel
