#include "quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "quant/codes.h"
#include "quant/format.h"

namespace tqs {
namespace {

void check_finite(MatrixView<const float> weights) {
    for (std::int64_t n = 0; n < weights.rows; ++n) {
        const float* row = weights.row(n);
        for (std::int64_t k = 0; k < weights.columns; ++k) {
            require(std::isfinite(row[k]), "pack", "expected finite weights, got ", row[k], " at [", n, ", ", k,
                    "]; repair the checkpoint or leave this layer in float");
        }
    }
}

}  // namespace

void quantize(MatrixView<const float> weights, int bits, std::int64_t group_size, Search search, PackedArrays out,
              int threads) {
    check_packed("pack", {out.codes, out.scales, out.zeros, weights.rows, weights.columns, group_size, bits});
    require(weights.data != nullptr, "pack", "weights must not be null");
    check_finite(weights);

    const bool symmetric = out.zeros == nullptr;
    const std::int64_t columns = weights.columns;
    const std::int64_t groups = packed_groups(columns, group_size);
    const std::int64_t width = group_size == 0 ? columns : group_size;
    const std::int64_t row_bytes = packed_row_bytes(columns, bits);
    parallel_for(weights.rows, threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(columns));
        for (std::int64_t n = begin; n < end; ++n) {
            for (std::int64_t group = 0; group < groups; ++group) {
                const std::int64_t first = group * width;
                const std::int64_t count = std::min(width, columns - first);
                const float* values = weights.row(n) + first;
                const GroupScale chosen = search_group(values, count, bits, symmetric, search);
                encode_group(values, count, bits, chosen, codes.data() + first);
                out.scales[n * groups + group] = chosen.scale;
                if (!symmetric) out.zeros[n * groups + group] = chosen.zero;
            }
            pack_row(codes.data(), columns, bits, out.codes + n * row_bytes);
        }
    });
}

}  // namespace tqs
