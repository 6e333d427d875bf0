#include "quant/row_blocks.h"

#include "quant/qgemm.h"

namespace tqs {

std::int64_t row_count(const RowBlocks& weight) {
    std::int64_t rows = 0;
    for (const RowBlock& block : weight) rows += block.prepared->weight.rows;
    return rows;
}

void multiply(const RowBlocks& weight, const float* x, std::int64_t x_stride, std::int64_t rows, const float* bias,
              float* y, std::int64_t y_stride, int threads) {
    std::int64_t first = 0;
    for (const auto& [prepared, activation] : weight) {
        const QgemmTask task{.x = x,
                             .x_stride = x_stride,
                             .rows = rows,
                             .weight = {},
                             .panels = nullptr,
                             .bias = bias ? bias + first : nullptr,
                             .y = y + first,
                             .y_stride = y_stride,
                             .activations = nullptr};
        qgemm(task, *prepared, DType::float32, activation, threads);
        first += prepared->weight.rows;
    }
}

}  // namespace tqs
