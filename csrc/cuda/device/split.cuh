// K shared among several blocks: each leaves its sums in global memory, and the block that comes last adds them all in
// the order of K. Which block that is changes from run to run; the sums and their order do not, so neither do the bits.
#pragma once

#include <cstdint>

#include "cuda/device/instructions.cuh"
#include "cuda/device/operand.cuh"

namespace tqs::cuda {

__device__ inline float plus(float a, float b) {
    return a + b;
}
__device__ inline int plus(int a, int b) {
    return a + b;
}

// partials: Sum [blocks, splits, count, threads]. The first `callers` threads of the block call, the others have left;
// those from `threads` on bring nothing.
// True in the last block, where `values` are then the sums over all splits. Overwrites shared memory.
template <int callers, class Sum, int count>
__device__ inline bool combine_splits(const Product& p, int block, int threads, Sum (&values)[count]) {
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t stride = static_cast<std::int64_t>(count) * threads;
    Sum* partials = static_cast<Sum*>(p.partials) + block * p.splits * stride;
    if (thread < threads) {
#pragma unroll
        for (int i = 0; i < count; ++i) partials[blockIdx.z * stride + i * threads + thread] = values[i];
    }
    auto* came = reinterpret_cast<unsigned*>(shared_memory());
    device_fence();
    part_barrier<callers>();  // shared memory is no longer read, partials are written
    if (thread == 0) *came = count_to(p.counters + block, static_cast<unsigned>(p.splits - 1));
    part_barrier<callers>();
    if (*came != static_cast<unsigned>(p.splits - 1)) return false;
    device_fence();
    if (thread < threads) {
#pragma unroll
        for (int i = 0; i < count; ++i) values[i] = load_fresh(partials + i * threads + thread);
        for (int split = 1; split < p.splits; ++split) {
#pragma unroll
            for (int i = 0; i < count; ++i) {
                values[i] = plus(values[i], load_fresh(partials + split * stride + i * threads + thread));
            }
        }
    }
    return true;
}

// Units [begin, end) of this block's split.
struct Range {
    int begin, end;
};
__device__ inline Range split_range(const Product& p) {
    const int split = static_cast<int>(blockIdx.z);
    return {static_cast<int>(static_cast<std::int64_t>(p.units) * split / p.splits),
            static_cast<int>(static_cast<std::int64_t>(p.units) * (split + 1) / p.splits)};
}

}  // namespace tqs::cuda
