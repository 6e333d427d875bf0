#include "quant/format.h"

#include "core/check.h"

namespace tqs {

void check_packed(const char* function, const PackedView& packed) {
    require(format_index(packed.bits) >= 0, function, "bits must be 2, 3, 4 or 8, got ", packed.bits);
    require(is_group_size(packed.group_size), function, "group_size must be 32, 64, 128 or 0 (per channel), got ",
            packed.group_size);
    require(packed.rows >= 1 && packed.columns >= 1 && packed.rows <= (std::int64_t{1} << 40) / packed.columns,
            function, "expected a packed matrix of 1 to 2^40 weights, got [", packed.rows, ", ", packed.columns, "]");
    require(packed.codes && packed.scales, function, "codes and scales must not be null");
}

}  // namespace tqs
