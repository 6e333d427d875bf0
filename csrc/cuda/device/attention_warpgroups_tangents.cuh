// What the warpgroups that multiply do (attention_warpgroups.cuh): from chunks of keys and values to tangents.
//
// Of scores and sums a thread has rows g and g + 8 of its warp's 16 (instructions.cuh: fragments of m16n8k16); rounded
// and paired, weights are the left operand of their product with v as they lie in the registers.
#pragma once

#include <type_traits>

#include "cuda/device/attention_warpgroups.cuh"

namespace tqs::cuda {

// c = a b, or c += a b where `add`; a in registers or described.
template <class Element, class Left>
__device__ inline void multiply_by_columns(float (&c)[8][4], const Left& a, std::uint64_t b, bool add) {
    if constexpr (std::is_same_v<Element, Bfloat16>) {
        products_bfloat16(c, a, b, add);
    } else {
        products_float16(c, a, b, add);
    }
}
template <class Element, int fragments>
__device__ inline void add_by_rows(float (&c)[fragments][4], const Fragment& a, std::uint64_t b) {
    if constexpr (std::is_same_v<Element, Bfloat16>) {
        products_by_rows_bfloat16(c, a, b, true);
    } else {
        products_by_rows_float16(c, a, b, true);
    }
}

// Of two elements in a word, the first or the second.
template <class Element>
__device__ inline float of_pair(std::uint32_t pair, int second) {
    return to_float(Element{static_cast<std::uint16_t>(pair >> 16 * second)});
}

template <class Shape>
class WarpgroupTangents : WarpgroupBlock<Shape> {
    using Base = WarpgroupBlock<Shape>;
    using Base::a, Base::h, Base::kKeys;
    using Element = typename Shape::Element;
    static constexpr int kTangents = Shape::kTangents, kDepthSteps = Shape::kDepth / 16, kKeySteps = kKeys / 16;
    static_assert(kTangents <= 2, "of whose products one group may be under way while another is waited for");
    static constexpr int kFragments = Shape::kDepth / 8;
    using Scores = float[kKeys / 8][4];
    using Weights = Fragment[kKeySteps];  // rounded, as left operands

  public:
    __device__ explicit WarpgroupTangents(const Base& block) : Base(block) {
        const int thread = static_cast<int>(threadIdx.x) - kWarpgroupThreads;
        group = thread / kWarpgroupThreads;
        t = thread % 4;
        leads = thread % 32 == 0;
        first_row = this->first_query + thread / 32 * 16 + thread % 32 / 4;
        const char* const q = this->at(kQ, 0);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + 8 * half;
            const bool exists = row < static_cast<int>(a.queries);
            shifts[half] = exists ? h.states[h.state_of(this->head, row) + a.width] : 0.0f;
            ends[half] = this->visible(row + 1) - 2 * t;
            const char* const from = q + row * this->row_bytes(kQ) + 4 * t;
#pragma unroll
            for (int i = 0; i < 2 * kDepthSteps; ++i) {
                const bool there = exists && 8 * i < static_cast<int>(a.depth);
                queries[i / 2][i % 2 * 2 + half] =
                    there ? load_word(reinterpret_cast<const std::uint32_t*>(from + 16 * i)) : 0;
            }
        }
    }

    __device__ void run() {
        const int first = this->first_query + group * kSlabRows;
        const int end = first < static_cast<int>(a.queries) ? this->visible(first + kSlabRows) : 0;
        typename Base::Place place, done;
#pragma unroll 1
        for (int key = 0; key < end; key += kKeys) {
            Scores weights, slopes[kTangents];
            const unsigned char* const keys = take(place);
            fence_products();
            add_scores(weights, queries, describe_atoms(keys), false);
            commit_products();
            add_slopes(slopes[0], 0, keys);
            wait_products<1>();  // with the scores the values of the step before
            settle(weights);
            if (key > 0) release(done);
            weigh(weights, key, this->mask_of(done));
            const unsigned char* values = nullptr;
#pragma unroll
            for (int n = 0; n < kTangents; ++n) {
                if (n + 1 < kTangents) add_slopes(slopes[n + 1], n + 1, keys);
                wait_products<kTangents - 1>();  // but for the slopes of lane 1 or the values of lane 0
                settle(slopes[n]);
                move(n, weights, slopes[n]);
                if (n + 1 == kTangents) release(done);
                if (n == 0) values = take(place);
                add_values(n, values);
            }
        }
        wait_products<0>();
#pragma unroll
        for (int n = 0; n < kTangents; ++n) settle(sums[n]);
        if (end > 0) release(done);
        const int all = this->steps(this->end_key);
        for (int chunk = 2 * this->steps(end); chunk < 2 * all; ++chunk) {  // that the other warpgroup alone sees
            take(place);
            release(done);
        }
    }

    __device__ void write() {
#pragma unroll
        for (int n = 0; n < kTangents; ++n) {
            const bool moves = this->at(kQ, n + 1) || this->at(kK, n + 1) || this->at(kV, n + 1);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float drift = row_sum_of(drifts[n][half]);
                const int row = first_row + 8 * half;
                if (row >= static_cast<int>(a.queries)) continue;
                const float* const out = h.states + h.state_of(this->head, row);
                const float inverse = out[a.width + 1];
                char* const to = this->at(kOut, n + 1) + row * this->row_bytes(kOut);
#pragma unroll
                for (int tile = 0; tile < kFragments; ++tile) {
                    const int column = 8 * tile + 2 * t;
                    if (column >= static_cast<int>(a.width)) continue;
                    float pair[2] = {};
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        if (moves) pair[i] = fused(-drift, out[column + i], sums[n][tile][2 * half + i]) * inverse;
                    }
                    *reinterpret_cast<std::uint32_t*>(to + 2 * column) = pair_of(Element{}, pair[0], pair[1]);
                }
            }
        }
    }

  private:
    // The next chunk, when it is there.
    __device__ const unsigned char* take(typename Base::Place& place) const {
        wait_phase(this->full + place.chunk, place.parity);
        const unsigned char* const chunk = this->chunks + place.chunk * Shape::kChunk;
        place.next();
        return chunk;
    }
    // Hands the chunk back, whose products this warp has waited for; when all its lanes know that it was there.
    __device__ void release(typename Base::Place& done) const {
        warp_barrier();
        if (leads) arrive(this->empty + done.chunk);
        done.next();
    }

    // scores (+)= left k^T
    template <class Left>
    __device__ static void add_scores(Scores& scores, const Left& left, std::uint64_t keys, bool add) {
#pragma unroll
        for (int step = 0; step < kDepthSteps; ++step) {
            const std::uint64_t columns = Shape::columns(step);
            if constexpr (std::is_same_v<Left, std::uint64_t>) {
                multiply_by_columns<Element>(scores, left + columns, keys + columns, add || step > 0);
            } else {
                multiply_by_columns<Element>(scores, left[step], keys + columns, add || step > 0);
            }
        }
    }
    // slopes = dq k^T + q dk^T of tangent n
    __device__ void add_slopes(Scores& slopes, int n, const unsigned char* keys) const {
        const unsigned char* const moving = this->moving_queries + (n * kMultiplyingGroups + group) * Shape::kTile;
        fence_products();
        add_scores(slopes, describe_atoms(moving), describe_atoms(keys), false);
        add_scores(slopes, queries, describe_atoms(keys + (n + 1) * Shape::kTile), true);
        commit_products();
    }
    // sums += (w ds) v + w dv of tangent n
    __device__ void add_values(int n, const unsigned char* values) {
        const std::uint64_t v = describe_atoms_by_rows<Shape::kSlab>(values);
        const std::uint64_t dv = describe_atoms_by_rows<Shape::kSlab>(values + (n + 1) * Shape::kTile);
        fence_products(moved[n]);
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
            add_by_rows<Element>(sums[n], moved[n][step], v + Shape::rows(step));
        }
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
            add_by_rows<Element>(sums[n], rounded[step], dv + Shape::rows(step));
        }
        commit_products();
    }

    // Scores of the keys from `key`, whose mask begins at `mask`, to weights times the scale, and the rounded weights.
    // Keys are hidden before the powers are taken, which run between the next products: a branch would part them.
    __device__ void weigh(Scores& scores, int key, int mask) {
        const auto thread = static_cast<int>(threadIdx.x) - kWarpgroupThreads;
        const int place = mask + Shape::place(thread / 32 * 16 + thread % 16, thread % 32 / 16);
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
            Fragment added;  // to the scores of 16 keys
            if constexpr (Shape::kMasked) load_matrices(this->masks + (place ^ 32 * step), added);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                float& score = scores[2 * step + i / 4][i % 4];
                const float shift = shifts[i % 4 / 2];
                if constexpr (Shape::kMasked) {  // rounded as when the maximum was taken, or large masks do not cancel
                    score = fused(h.exponent_scale, score, in_powers(of_pair<Element>(added[i / 2], i % 2))) - shift;
                } else {
                    score = fused(h.exponent_scale, score, -shift);
                }
            }
        }
        if (kKeys - 7 >= ends[0] - key) {  // the last of this thread's keys
#pragma unroll
            for (int tile = 0; tile < kKeys / 8; ++tile) {
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    const bool hidden = 8 * tile + c % 2 >= ends[c / 2] - key;
                    if (hidden) scores[tile][c] = -std::numeric_limits<float>::infinity();
                }
            }
        }
#pragma unroll
        for (int tile = 0; tile < kKeys / 8; ++tile) {
#pragma unroll
            for (int c = 0; c < 4; ++c) scores[tile][c] = power_of_two(scores[tile][c]);
        }
        round(rounded, scores);
#pragma unroll
        for (int tile = 0; tile < kKeys / 8; ++tile) {
#pragma unroll
            for (int c = 0; c < 4; ++c) scores[tile][c] *= h.scale;
        }
        settle(rounded);  // here, while products are under way, and before those that read it
        settle(scores);
    }
    // Slopes of tangent n to w ds.
    __device__ void move(int n, const Scores& weights, Scores& slopes) {
#pragma unroll
        for (int tile = 0; tile < kKeys / 8; ++tile) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                slopes[tile][c] *= weights[tile][c];
                drifts[n][c / 2] += slopes[tile][c];
            }
        }
        round(moved[n], slopes);
    }
    __device__ static void round(Weights& to, const Scores& from) {
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* const pair = from[2 * step + i / 2] + i % 2 * 2;
                to[step][i] = pair_of(Element{}, pair[0], pair[1]);
            }
        }
    }

    bool leads;  // its warp; with threadIdx.x in place of it registers were spilled
    int group, t;
    int first_row;  // of this thread's two, 8 apart
    int ends[2];    // of the keys that a row sees, from the first of this thread's
    float shifts[2];
    Fragment queries[kDepthSteps];
    Weights rounded, moved[kTangents];  // w, and w ds
    float drifts[kTangents][2] = {};    // sums of w ds over this thread's keys
    float sums[kTangents][kFragments][4] = {};
};

// Per thread: those that fill have addresses, those that multiply up to 238 numbers in use.
inline constexpr int kAttentionFillingRegisters = 24, kAttentionRegisters = 240;
static_assert(kWarpgroupThreads * (kAttentionFillingRegisters + kMultiplyingGroups * kAttentionRegisters) <=
              168 * kBlockThreads);

template <class Shape>
__global__ void __launch_bounds__(kBlockThreads, 1) warpgroup_tangents(const TensorArgument h) {
    begin_kernel();
    const WarpgroupBlock<Shape> block(h, h.a.first_lane + static_cast<std::int64_t>(blockIdx.y) * Shape::kTangents);
    if (threadIdx.x < kWarpgroupThreads) {
        release_registers<kAttentionFillingRegisters>();
        block.fill();
        return;
    }
    claim_registers<kAttentionRegisters>();
    WarpgroupTangents<Shape> tangents(block);
    tangents.run();
    tangents.write();
}

}  // namespace tqs::cuda
