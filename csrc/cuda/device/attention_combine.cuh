// What the splits of 16-bit attention (attention_tensor.cuh) found, put together in the order of their numbers: a
// thread per element, for a lane of an ensemble, the primal, or a tangent.
//
//   grid x: elements [heads x queries, E]     grid y: lanes, with z for those beyond its limit
#pragma once

#include "cuda/device/attention_tensor.cuh"

namespace tqs::cuda {

inline constexpr int kCombineThreads = 128;

template <class Element, bool tangents>
__global__ void __launch_bounds__(kCombineThreads) tensor_combine(const TensorArgument h) {
    begin_kernel();
    const AttentionArgument& a = h.a;
    const std::int64_t rows = static_cast<std::int64_t>(a.heads.count) * a.queries, pitch = a.width + 2;
    const std::int64_t element = static_cast<std::int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
    const std::int64_t lane = static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    if (lane >= h.lanes || element >= rows * a.width) return;
    const std::int64_t row = element / a.width, column = element % a.width;
    const auto partial = [&](int split) {
        return h.partials + ((split * h.lanes + lane) * rows + row) * pitch;
    };
    float value = 0.0f;
    if constexpr (tangents) {
        float drift = 0.0f;
        bool moves = false;
        for (int operand = kQ; operand < kOut; ++operand) {
            if (operand == kMask && !a.masked) continue;
            moves = moves || a.tangents[operand].lane(a.first_lane + lane, true);
        }
        for (int split = 0; split < h.splits; ++split) {
            value += partial(split)[column];
            drift += partial(split)[a.width];
        }
        const float* const state = h.states + row * pitch;
        value = moves ? fused(-drift, state[column], value) * state[a.width + 1] : 0.0f;
    } else {
        float largest = -std::numeric_limits<float>::infinity(), total = 0.0f;
        for (int split = 0; split < h.splits; ++split) {
            const float own = partial(split)[a.width];
            largest = own > largest ? own : largest;
        }
        const float shift = largest == -std::numeric_limits<float>::infinity() ? 0.0f : largest;
        for (int split = 0; split < h.splits; ++split) {
            const float* const part = partial(split);
            const float rescale = power_of_two(part[a.width] - shift);
            value = fused(part[column], rescale, value);
            total = fused(part[a.width + 1], rescale, total);
        }
        const float inverse = total == 0.0f ? 0.0f : quotient(1.0f, total);
        value *= inverse;
        if (h.states) {
            float* const state = h.states + row * pitch;
            state[column] = value;
            if (column == 0) {
                state[a.width] = shift;
                state[a.width + 1] = inverse;
            }
        }
    }
    const auto head = static_cast<std::uint32_t>(row / a.queries);
    char* const out = tangents ? a.tangents[kOut].lane(a.first_lane + lane, false) : a.operands[kOut].lane(lane, false);
    const std::int64_t place = a.heads.offset(kOut, head) + row % a.queries * a.steps[kOut].row + column;
    store(reinterpret_cast<Element*>(out) + place, value);
}

}  // namespace tqs::cuda
