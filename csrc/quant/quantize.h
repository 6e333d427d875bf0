// Float weights to the packed format (quant/format.h), scales by quant/search.h.
#pragma once

#include <cstdint>

#include "core/view.h"
#include "quant/search.h"

namespace tqs {

struct PackedArrays {
    std::uint8_t* codes;    // [rows, row_bytes]
    std::uint16_t* scales;  // [rows, groups]
    std::uint8_t* zeros;    // [rows, groups], or null for the symmetric form
};

// Packs `weights`. Rows are shared among threads; the result does not depend on how.
// Throws ArgumentError naming the first NaN or infinite weight; nothing is written then.
void quantize(MatrixView<const float> weights, int bits, std::int64_t group_size, Search search, PackedArrays out,
              int threads);

}  // namespace tqs
