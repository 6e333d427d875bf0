#include "quant/quantize.h"

#include <cmath>

#include "backend/backend.h"
#include "core/check.h"
#include "core/parallel.h"
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

    const QuantizeTask task{.weights = weights.data,
                            .stride = weights.stride,
                            .columns = weights.columns,
                            .group_size = group_size,
                            .ratios = &scale_ratios(bits, out.zeros == nullptr),
                            .search = search == Search::mse,
                            .codes = out.codes,
                            .scales = out.scales,
                            .zeros = out.zeros};
    const QuantizeKernel kernel = active_table().quantize[format_index(bits)];
    parallel_for(weights.rows, threads, [&](std::int64_t begin, std::int64_t end) { kernel(task, begin, end); });
}

}  // namespace tqs
