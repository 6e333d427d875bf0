// The simple, correct product on packed weights; a fast one replaces its table entry.
//
//   grid x: output columns n, one per warp, kWarps per block        lanes stride over the k of a group,
//   grid y: blocks of kRows rows of x (strided when M is huge)       then a butterfly adds the 32 partial sums
//
// Every weight is decoded by one lane and used for kRows rows. Sums are float32; the order over k is fixed, so the
// result is the same from run to run, and |y - exact| <= (K / 32 + 9) u (sum |x||w| + |bias|), u = 2^-24.
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

// The arrays of `task` with their shapes are in backend/kernel_table.h and quant/format.h.
template <class Activation, int bits>
__global__ void __launch_bounds__(kWarp* kWarps)
    qgemm(const QgemmTask task, std::int64_t width, std::int64_t groups, std::int64_t code_bytes) {
    const auto* __restrict__ x = static_cast<const Activation*>(task.x);
    auto* __restrict__ y = static_cast<Activation*>(task.y);
    const std::int64_t columns = task.weight.columns;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
    if (n >= task.weight.rows) return;  // whole warps leave, so the shuffles below stay complete
    const std::uint8_t* row_codes = task.weight.codes + n * code_bytes;

    for (std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kRows; first < task.rows;
         first += static_cast<std::int64_t>(gridDim.y) * kRows) {
        const int count = static_cast<int>(task.rows - first < kRows ? task.rows - first : kRows);
        float sums[kRows] = {};
        for (std::int64_t group = 0; group < groups; ++group) {
            const float scale = to_float(task.weight.scales[n * groups + group]);
            const int zero = task.weight.zeros ? task.weight.zeros[n * groups + group] : 1 << (bits - 1);
            const std::int64_t end = (group + 1) * width < columns ? (group + 1) * width : columns;
            for (std::int64_t k = group * width + lane; k < end; k += kWarp) {
                const float weight = scale * static_cast<float>(read_code<bits>(row_codes, k) - zero);
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    if (r < count) sums[r] += to_float(x[(first + r) * task.x_stride + k]) * weight;
                }
            }
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            for (int step = kWarp / 2; step > 0; step /= 2) sums[r] += __shfl_xor_sync(0xFFFFFFFFu, sums[r], step);
            if (r < count && lane == r) {
                const float result = task.bias ? sums[r] + task.bias[n] : sums[r];
                store(y + (first + r) * task.y_stride + n, result);
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
    qgemm<Activation, bits>
        <<<grid, kWarp * kWarps, 0, stream>>>(task, group_width(weight), group_count(weight), row_bytes(weight));
    return cudaGetLastError();
}

}  // namespace

const QgemmLaunch kQgemm[kDTypes][kFormats] = {
    {launch<float, 2>, launch<float, 3>, launch<float, 4>, launch<float, 8>},
    {launch<std::uint16_t, 2>, launch<std::uint16_t, 3>, launch<std::uint16_t, 4>, launch<std::uint16_t, 8>},
};

}  // namespace tqs::cuda
