// dequantize for a vector ISA: kLanes values at a time, the last store of a row cut to its end.
#pragma once

#include "cpu/panel/decode.h"

namespace tqs::panel {

template <class V, int bits>
static void dequantize(const PackedView& weight, std::int64_t begin, std::int64_t end, float* out,
                       std::int64_t stride) {
    const std::int64_t width = group_width(weight);
    for (std::int64_t n = begin; n < end; ++n) {
        float* row = out + (n - begin) * stride;
        for (std::int64_t first = 0; first < weight.columns; first += width) {
            const Group<V> group = group_at<V>(weight, n, first / width);
            const std::int64_t last = std::min(first + width, weight.columns);
            for (std::int64_t k = first; k < last; k += V::kLanes) {
                V::store_partial(row + k, decode<V, bits>(weight, n, k, group), last - k);
            }
        }
    }
}

}  // namespace tqs::panel
