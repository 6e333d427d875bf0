// The simple, correct product on packed weights; a fast one replaces its table entry.
//
//   grid x: output columns n, one per warp, kWarps per block        lanes stride over the k of a group,
//   grid y: blocks of kRows rows of x (strided when M is huge)       then a butterfly adds the 32 partial sums
//
// Every weight is decoded by one lane and used for kRows rows. Sums are float32; the order over k is fixed, so the
// result is the same from run to run, and |y - exact| <= (K / 32 + 7) eps (sum |x||w| + |bias|).
#include "core/dtype.h"
#include "cuda/device/bfloat16.cuh"
#include "cuda/device/codes.cuh"
#include "cuda/kernels.h"

namespace tqs::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kRows = 8;
constexpr std::int64_t kMostGridRows = 65535;  // limit of gridDim.y

template <class Activation, int bits>
__global__ void __launch_bounds__(kWarp* kWarps)
    qgemm(const Activation* __restrict__ x,         // [M, K], rows x_stride apart
          std::int64_t x_stride,
          std::int64_t rows,                        // M
          const std::uint8_t* __restrict__ codes,   // [N, row_bytes]
          const std::uint16_t* __restrict__ scales, // [N, groups]
          const std::uint8_t* __restrict__ zeros,   // [N, groups] or null
          std::int64_t columns_out,                 // N
          std::int64_t columns,                     // K
          std::int64_t width,                       // inputs per group
          std::int64_t groups,
          std::int64_t row_bytes,
          const float* __restrict__ bias,           // [N] or null
          Activation* __restrict__ y,               // [M, N], rows y_stride apart
          std::int64_t y_stride) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
    if (n >= columns_out) return;  // whole warps leave, so the shuffles below stay complete
    const std::uint8_t* row_codes = codes + n * row_bytes;

    for (std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kRows; first < rows;
         first += static_cast<std::int64_t>(gridDim.y) * kRows) {
        const int count = static_cast<int>(rows - first < kRows ? rows - first : kRows);
        float sums[kRows] = {};
        for (std::int64_t group = 0; group < groups; ++group) {
            const float scale = to_float(scales[n * groups + group]);
            const int zero = zeros ? zeros[n * groups + group] : 1 << (bits - 1);
            const std::int64_t end = (group + 1) * width < columns ? (group + 1) * width : columns;
            for (std::int64_t k = group * width + lane; k < end; k += kWarp) {
                const float weight = scale * static_cast<float>(read_code<bits>(row_codes, k) - zero);
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    if (r < count) sums[r] += to_float(x[(first + r) * x_stride + k]) * weight;
                }
            }
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            for (int step = kWarp / 2; step > 0; step /= 2) sums[r] += __shfl_xor_sync(0xFFFFFFFFu, sums[r], step);
            if (r < count && lane == r) {
                const float result = bias ? sums[r] + bias[n] : sums[r];
                store(y + (first + r) * y_stride + n, result);
            }
        }
    }
}

template <class Activation, int bits>
cudaError_t launch(const QgemmTask& task, cudaStream_t stream) {
    const PackedView& weight = task.weight;
    const std::int64_t row_blocks = (task.rows + kRows - 1) / kRows;
    const dim3 grid(static_cast<unsigned>((weight.rows + kWarps - 1) / kWarps),
                    static_cast<unsigned>(row_blocks < kMostGridRows ? row_blocks : kMostGridRows));
    qgemm<Activation, bits><<<grid, kWarp * kWarps, 0, stream>>>(
        static_cast<const Activation*>(task.x), task.x_stride, task.rows, weight.codes, weight.scales, weight.zeros,
        weight.rows, weight.columns, group_width(weight), group_count(weight), row_bytes(weight), task.bias,
        static_cast<Activation*>(task.y), task.y_stride);
    return cudaGetLastError();
}

}  // namespace

const QgemmLaunch kQgemm[kDTypes][kFormats] = {
    {launch<float, 2>, launch<float, 3>, launch<float, 4>, launch<float, 8>},
    {launch<std::uint16_t, 2>, launch<std::uint16_t, 3>, launch<std::uint16_t, 4>, launch<std::uint16_t, 8>},
};

}  // namespace tqs::cuda
