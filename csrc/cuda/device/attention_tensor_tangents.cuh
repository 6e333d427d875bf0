// Tangents of 16-bit attention (attention_tensor.cuh), whose weights follow from the states of the rows.
#pragma once

#include "cuda/device/attention_tensor.cuh"

namespace tqs::cuda {

template <class Shape>
class TensorTangents : TensorBlock<Shape> {
    using Base = TensorBlock<Shape>;
    using Base::a, Base::h, Base::t;
    using typename Base::Element;
    static constexpr int kTangents = Shape::kTangents;
    using Rounded = Weights<Base::kTiles>;

  public:
    __device__ TensorTangents(const TensorArgument& argument, std::int64_t group)
        : Base(argument, 0, argument.a.first_lane + group * kTangents),
          first(argument.a.first_lane - 1 + group * kTangents) {
        const int place = static_cast<int>(threadIdx.x), row = this->numbers->first_query + place;
        this->shifts[place] = row < static_cast<int>(a.queries) ? state(row)[a.width] : 0.0f;
        warp_barrier();
    }

    __device__ void run() {
        const bool slopes = a.q_moves || a.k_moves || a.mask_moves;
#pragma unroll 1
        for (int key = this->numbers->first_key; key < this->numbers->end_key; key += Shape::kKeys) {
            Rounded weights, moved[kTangents];
            const unsigned char* const keys = this->take_chunk();
            const bool active = this->active(key);
            if (active) {
                if (a.q_moves && a.k_moves) {
                    weigh<true, true>(weights, moved, keys, key);
                } else if (a.q_moves) {
                    weigh<true, false>(weights, moved, keys, key);
                } else if (a.k_moves) {
                    weigh<false, true>(weights, moved, keys, key);
                } else {
                    weigh<false, false>(weights, moved, keys, key);
                }
            }
            const unsigned char* const values = this->take_chunk();
            if (!active) continue;
            if (slopes) add_moved(moved, values);
            if (a.v_moves) add_moving_values(weights, values);
        }
        wait_copies<0>();
    }

    __device__ void write() {
#pragma unroll
        for (int n = 0; n < kTangents; ++n) {
            const bool moves =
                this->at(kQ, n + 1) || this->at(kK, n + 1) || this->at(kV, n + 1) || this->at(kMask, n + 1);
#pragma unroll
            for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
                for (int half = 0; half < 2; ++half) drifts[n][m][half] = row_sum_of(drifts[n][m][half]);
            }
            this->for_each_row([&](int row, int m, int half) {
                const float drift = drifts[n][m][half];
                if (h.splits > 1) {
                    float* const to = this->partial_of(first + n, row);
                    if (t == 0) to[a.width] = drift;
                    this->for_each_pair([&](int column, int tile) {
                        to[column] = sums[n][m][tile][2 * half];
                        to[column + 1] = sums[n][m][tile][2 * half + 1];
                    });
                    return;
                }
                const float* const out = state(row);
                const float inverse = out[a.width + 1];
                this->for_each_pair([&](int column, int tile) {
                    float pair[2] = {};
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        if (moves) pair[i] = fused(-drift, out[column + i], sums[n][m][tile][2 * half + i]) * inverse;
                    }
                    this->store_out(n + 1, row, column, pair[0], pair[1]);
                });
            });
        }
    }

  private:
    __device__ const float* state(int row) const { return h.states + this->state_of(row); }

    // w, and w ds of every tangent.
    template <bool q_moves, bool k_moves>
    __device__ void weigh(Rounded& rounded, Rounded (&moved)[kTangents], const unsigned char* keys, int key) {
        typename Base::Scores weights = {}, slopes[kTangents] = {};
        add_scores<Shape, q_moves, k_moves>(weights, slopes, this->own_queries(), keys);
        this->finish(weights, key);
        const float* const shifts = this->shifts + static_cast<int>(threadIdx.x) / 32 * kWarpQueries + this->g;
        Base::for_each([&](int m, int tile, int c) {
            weights[m][tile][c] = power_of_two(weights[m][tile][c] - shifts[16 * m + c / 2 * 8]);
        });
#pragma unroll
        for (int n = 0; n < kTangents; ++n) {
            Base::for_each([&](int m, int tile, int c) { slopes[n][m][tile][c] *= h.scale; });
            if (a.mask_moves) {
                this->for_each_mask(n + 1, key, 0.0f, [&](int m, int tile, int c, float mask) {
                    if (weights[m][tile][c] != 0.0f) slopes[n][m][tile][c] += mask;  // hidden keys: any tangent
                });
            }
            Base::for_each([&](int m, int tile, int c) {
                slopes[n][m][tile][c] *= weights[m][tile][c];
                drifts[n][m][c / 2] += slopes[n][m][tile][c];
            });
            round_weights<Element>(moved[n], slopes[n]);
        }
        round_weights<Element>(rounded, weights);
    }

    // sums += (w ds) v
    __device__ void add_moved(const Rounded (&moved)[kTangents], const unsigned char* values) {
#pragma unroll
        for (int from = 0; from < Shape::kKeys; from += 16) {
#pragma unroll
            for (int column = 0; column < Shape::kDepth; column += 16) {
                std::uint32_t right[4];
                load_values<Shape>(right, values, from, column);
#pragma unroll
                for (int n = 0; n < kTangents; ++n) add_values<Element>(sums[n], moved[n], right, from, column);
            }
        }
    }
    // sums += w dv
    __device__ void add_moving_values(const Rounded& weights, const unsigned char* values) {
#pragma unroll
        for (int n = 0; n < kTangents; ++n) {
#pragma unroll
            for (int from = 0; from < Shape::kKeys; from += 16) {
#pragma unroll
                for (int column = 0; column < Shape::kDepth; column += 16) {
                    std::uint32_t right[4];
                    load_values<Shape>(right, Base::of_set(values, n + 1), from, column);
                    add_values<Element>(sums[n], weights, right, from, column);
                }
            }
        }
    }

    const std::int64_t first;                     // of the tangents, from 0
    float drifts[kTangents][kWarpTiles][2] = {};  // sums of w ds over this lane's keys
    typename Base::Sums sums[kTangents] = {};
};

template <class Shape>
__global__ void __launch_bounds__(32 * kMostWarps, 2) tensor_tangents(const TensorArgument h) {
    begin_kernel();
    TensorTangents<Shape> block(h, blockIdx.y);
    block.run();
    block.write();
}

}  // namespace tqs::cuda
