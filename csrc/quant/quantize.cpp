#include "quant/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "backend/backend.h"
#include "core/check.h"
#include "core/parallel.h"
#include "quant/format.h"

namespace tqs {
namespace {

// Weights worth a thread, 30 to 50 us of the fastest kernel: with a search for scales, and without.
constexpr std::int64_t kSearchGrain = 1 << 12;
constexpr std::int64_t kGrain = 1 << 16;

// Whether all exponents are below that of infinities and NaNs; a loop for the compiler to vectorise.
bool is_finite(const float* values, std::int64_t count) {
    std::uint32_t broken = 0;
    for (std::int64_t k = 0; k < count; ++k) {
        broken |= (std::bit_cast<std::uint32_t>(values[k]) & 0x7F800000u) == 0x7F800000u ? 1u : 0u;
    }
    return broken == 0;
}

void check_finite(MatrixView<const float> weights) {
    for (std::int64_t n = 0; n < weights.rows; ++n) {
        const float* row = weights.row(n);
        if (is_finite(row, weights.columns)) continue;
        const std::int64_t k =
            std::find_if(row, row + weights.columns, [](float x) { return !std::isfinite(x); }) - row;
        require(false, "pack", "expected finite weights, got ", row[k], " at [", n, ", ", k,
                "]; repair the checkpoint or leave this layer in float");
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
    const std::int64_t grain = task.search ? kSearchGrain : kGrain;
    parallel_for(weights.rows, worthwhile_threads(weights.rows * weights.columns, grain, threads),
                 [&](std::int64_t begin, std::int64_t end) { kernel(task, begin, end); });
}

}  // namespace tqs
