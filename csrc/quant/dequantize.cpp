#include "quant/dequantize.h"

#include "backend/backend.h"
#include "core/check.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// Weights worth a thread, some 20 us of the fastest kernel.
constexpr std::int64_t kGrain = 1 << 17;

}  // namespace

void dequantize(const PackedView& packed, MatrixView<float> out, int threads) {
    check_packed("dequantize", packed);
    require(out.data && out.rows == packed.rows && out.columns == packed.columns && out.stride >= out.columns,
            "dequantize", "expected an output of shape [", packed.rows, ", ", packed.columns, "], got [", out.rows,
            ", ", out.columns, "] with row stride ", out.stride);
    const DequantizeKernel kernel = active_table().dequantize[format_index(packed.bits)];
    parallel_for(packed.rows, worthwhile_threads(packed.rows * packed.columns, kGrain, threads),
                 [&](std::int64_t begin, std::int64_t end) { kernel(packed, begin, end, out.row(begin), out.stride); });
}

}  // namespace tqs
