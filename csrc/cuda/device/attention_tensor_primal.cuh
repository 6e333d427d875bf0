// The primal of 16-bit attention (attention_tensor.cuh): the online softmax.
#pragma once

#include "cuda/device/attention_tensor.cuh"

namespace tqs::cuda {

template <class Shape>
class TensorPrimal : TensorBlock<Shape> {
    using Base = TensorBlock<Shape>;
    using Base::a, Base::h, Base::t;
    using typename Base::Element;

  public:
    __device__ TensorPrimal(const TensorArgument& argument, std::int64_t own) : Base(argument, own, 0), lane(own) {}

    __device__ void run() {
#pragma unroll 1
        for (int key = this->numbers->first_key; key < this->numbers->end_key; key += Shape::kKeys) {
            Weights<Base::kTiles> weights;
            const unsigned char* const keys = this->take_chunk();
            const bool active = this->active(key);
            if (active) {
                typename Base::Scores scores = {}, none[1];
                add_scores<Shape, false, false>(scores, none, this->own_queries(), keys);
                this->finish(scores, key);
                weigh(scores);
                round_weights<Element>(weights, scores);
            }
            const unsigned char* const values = this->take_chunk();
            if (!active) continue;
#pragma unroll
            for (int from = 0; from < Shape::kKeys; from += 16) {
#pragma unroll
                for (int column = 0; column < Shape::kDepth; column += 16) {
                    std::uint32_t right[4];
                    load_values<Shape>(right, values, from, column);
                    add_values<Element>(sums, weights, right, from, column);
                }
            }
        }
        wait_copies<0>();
    }

    __device__ void write() {
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) totals[m][half] = row_sum_of(totals[m][half]);
        }
        const auto width = static_cast<int>(a.width);
        this->for_each_row([&](int row, int m, int half) {
            float largest = maxima[m][half], total = totals[m][half], factor = 1.0f;
            float* to = nullptr;
            if (h.splits > 1) {
                to = this->partial_of(lane, row);
            } else {
                if (h.states) to = h.states + this->state_of(row);
                if (largest == Base::kLowest) largest = 0.0f;
                factor = total = total == 0.0f ? 0.0f : quotient(1.0f, total);
            }
            if (to && t == 0) {
                to[width] = largest;
                to[width + 1] = total;
            }
            this->for_each_pair([&](int column, int tile) {
                const float first = factor * sums[m][tile][2 * half], second = factor * sums[m][tile][2 * half + 1];
                if (to) {
                    to[column] = first;
                    to[column + 1] = second;
                }
                if (h.splits == 1) this->store_out(0, row, column, first, second);
            });
        });
    }

  private:
    // Scores to weights; maxima and totals, and what was summed before, for the new maxima.
    __device__ void weigh(typename Base::Scores& scores) {
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float largest = maxima[m][half];
#pragma unroll
                for (int tile = 0; tile < Base::kTiles; ++tile) {
                    largest = larger(larger(largest, scores[m][tile][2 * half]), scores[m][tile][2 * half + 1]);
                }
                largest = larger(largest, shuffle_xor(largest, 1));
                largest = larger(largest, shuffle_xor(largest, 2));
                const float shift = largest == Base::kLowest ? 0.0f : largest;
                const float rescale = power_of_two(maxima[m][half] - shift);
                maxima[m][half] = largest;
                float total = 0.0f;
#pragma unroll
                for (int tile = 0; tile < Base::kTiles; ++tile) {
#pragma unroll
                    for (int c = 2 * half; c < 2 * half + 2; ++c) {
                        scores[m][tile][c] = power_of_two(scores[m][tile][c] - shift);
                        total += scores[m][tile][c];
                    }
                }
                totals[m][half] = fused(totals[m][half], rescale, total);
#pragma unroll
                for (int tile = 0; tile < Base::kColumns; ++tile) {
                    sums[m][tile][2 * half] *= rescale;
                    sums[m][tile][2 * half + 1] *= rescale;
                }
            }
        }
    }
    __device__ static float larger(float a, float b) { return b > a ? b : a; }

    const std::int64_t lane;
    float maxima[kWarpTiles][2] = {{Base::kLowest, Base::kLowest}, {Base::kLowest, Base::kLowest}};
    float totals[kWarpTiles][2] = {};  // of this lane's keys
    typename Base::Sums sums = {};
};

template <class Shape>
__global__ void __launch_bounds__(32 * kMostWarps, 2) tensor_primal(const TensorArgument h) {
    begin_kernel();
    const std::int64_t lane = static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
    if (lane >= h.lanes) return;  // the whole block
    TensorPrimal<Shape> block(h, lane);
    block.run();
    block.write();
}

}  // namespace tqs::cuda
