// out = softmax(scale q k^T + mask) v and its tangents in one pass over the keys, without a matrix [S, T] in memory:
//
//     s_t   = scale q k_t + mask_t          ds_t = scale (dq k_t + q dk_t) + dmask_t
//     w_t   = exp(s_t - m)                  m the largest so far; all sums are multiplied by exp(m_old - m) when it
//     grows out   = sum w v / sum w               dout = (sum (w ds) v + w dv - (sum w ds) out) / sum w
//
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022; the
// tangents are theirs by the product rule.)
//
//   grid x: heads of all samples x chunks of kWidth columns of v x blocks of queries
//   grid y: groups of kTangents lanes; in an ensemble lanes, with z for those beyond its limit
//
// What it costs. A pair of query and key takes D + E multiply-adds for the primal and 2 D + 2 E for a tangent of all
// operands; what does not move (a shared operand) is left out. A block computes the primal for its kTangents lanes, so
// that K of them cost (2 + 4 kTangents) / (4 kTangents) of what they would alone: 1.125 for groups of 4. Reading and
// writing shared memory are a third of the multiply-adds' time (attention_tiles.cuh), global memory about 1 read in 100
// of them.
//
// float32 is multiplied as float32. Tensor cores have no such product: with bfloat16 parts three products have an error
// of 2^-16 of a term where float32 has 2^-24, and the six that reach it leave of their ninefold speed (sm_90: 990
// against 67 TFLOP/s, mma.sync reaches about 60 %) a factor of 1.5 at best.
//
// Sums over d and over keys run in index order, those of a row over its 16 threads by halves; nothing depends on lanes
// or samples. With u the roundoff, |s error| <= (D + 2) u sum |q k|, and relative to sum w |v| the result's is at most
// 2 |s error| + (T + 8) u.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/device/attention_tiles.cuh"
#include "cuda/device/causal_bound.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

struct MatrixSteps {
    std::int64_t row, column;
};

// In this order wherever operands have numbers.
enum AttentionOperand : int { kQ, kK, kV, kMask, kOut, kAttentionOperands };

struct AttentionArgument {
    Loops<kAttentionOperands> heads;  // samples and leading axes
    Lanes operands[kAttentionOperands];
    Lanes tangents[kAttentionOperands];     // of lanes 1 ...: the same, unless they lie apart
    MatrixSteps steps[kAttentionOperands];  // of the last two axes
    std::uint32_t queries, keys, depth, width;
    double scale;
    bool causal, masked, tangent;
    bool q_moves, k_moves, v_moves, mask_moves;  // whether any lane has a tangent
    CausalBound causal_offset;
    std::int64_t first_lane;  // of tangents: group g is first_lane + kTangents g ...
    std::int64_t lanes;
    bool writes_primal;
};

template <class Shape>
class AttentionBlock {
    using T = typename Shape::T;
    static constexpr int kRows = Shape::kRows, kSets = Shape::kSets, kWidths = Shape::kWidths;
    static constexpr T kLowest = -std::numeric_limits<T>::infinity();

  public:
    __device__ AttentionBlock(const AttentionArgument& argument, std::int64_t primal_lane, std::int64_t group)
        : a(argument) {
        const auto thread = static_cast<int>(threadIdx.x);
        x = thread % 16;
        y = thread / 16;
        tiles = reinterpret_cast<T*>(shared_memory());
        weights = tiles + Shape::kTiles;
        totals = weights + Shape::kWeights;
        pointers = reinterpret_cast<T**>(totals + Shape::kTotals);
        causal_offset = reinterpret_cast<std::int64_t*>(pointers + kAttentionOperands * kSets);
        const std::uint32_t blocks = (a.queries + Shape::kQueries - 1) / Shape::kQueries;
        const std::uint32_t chunks = (a.width + Shape::kWidth - 1) / Shape::kWidth;
        const std::uint32_t head = blockIdx.x / blocks / chunks;
        first_query = static_cast<int>(blockIdx.x % blocks) * Shape::kQueries;
        first_column = static_cast<int>(blockIdx.x / blocks % chunks) * Shape::kWidth;
        if (thread < kAttentionOperands * kSets) {
            const int operand = thread / kSets, set = thread % kSets;
            const std::int64_t lane = set == 0 ? primal_lane : a.first_lane + group * Shape::kTangents + set - 1;
            T* data = nullptr;
            if (operand != kMask || a.masked) {
                const Lanes& own = set == 0 ? a.operands[operand] : a.tangents[operand];
                data = reinterpret_cast<T*>(own.lane(lane, a.tangent && operand != kOut));
            }
            pointers[thread] = data ? data + a.heads.offset(operand, head) : nullptr;
        }
        if (thread == 0) *causal_offset = a.causal_offset.now();
        for (int i = thread; i < Shape::kTotals; i += kAttentionThreads) totals[i] = T(0);
        block_barrier();
    }

    __device__ void run() {
#pragma unroll
        for (int r = 0; r < kRows; ++r) maxima[r] = kLowest;
        const std::int64_t last = first_query + Shape::kQueries - 1;
        seen = static_cast<int>(visible(last < a.queries ? last : a.queries - 1));
#pragma unroll 1
        for (int stage = 0; stage + 1 < Shape::kStages; ++stage) copy_next();
#pragma unroll 1
        for (int key = 0; key < seen; key += kKeys) {
            T scores[kSets][kRows][4] = {};
            add_scores(scores);
            weigh(scores, key);
            add_values(key);
        }
        wait_copies<0>();
        block_barrier();
    }

    __device__ void write(bool primal) const {
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
            if (set == 0 && !primal) continue;
            T* const out = at(kOut, set);
            const bool moves = at(kQ, set) || at(kK, set) || at(kV, set) || at(kMask, set);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const int query = first_query + kRows * y + r;
                const T total = totals[kRows * y + r], inverse = total == T(0) ? T(0) : T(1) / total;
                const T drift = totals[set * Shape::kQueries + kRows * y + r];
#pragma unroll
                for (int w = 0; w < kWidths; ++w) {
#pragma unroll
                    for (int c = 0; c < 4; ++c) {
                        const int column = first_column + 64 * w + 4 * x + c;
                        T value = sums[0][w][r][c] * inverse;
                        if (set > 0) value = moves ? fused(-drift, value, sums[set][w][r][c]) * inverse : T(0);
                        if (query < static_cast<int>(a.queries) && column < static_cast<int>(a.width)) {
                            out[query * a.steps[kOut].row + column * a.steps[kOut].column] = value;
                        }
                    }
                }
            }
        }
    }

  private:
    // Set 0 is the primal. Null: absent, or a tangent that is zero.
    __device__ T* at(int operand, int set) const { return pointers[operand * kSets + set]; }
    // Keys that a query sees: 0 ... visible - 1.
    __device__ std::int64_t visible(std::int64_t query) const {
        const std::int64_t seen = a.causal ? query + *causal_offset + 1 : a.keys;
        return seen < 0 ? 0 : seen < a.keys ? seen : a.keys;
    }

    // Starts to copy the next chunk: depths of q and k for a block of keys, then keys of v, then those of the next
    // block.
    __device__ void copy_next() {
        T* const tile = tiles + next.stage * Shape::kTile;
        const int keys = seen - next.key < kKeys ? seen - next.key : kKeys;  // of the block; 0 and less: none left
        const int first = next.chunk * kSummed;
        if (keys > 0 && !next.values) {
            T* const k_tile = tile + kSets * kSummed * Shape::kQueryPitch;
            const int depths = static_cast<int>(a.depth) - first;
#pragma unroll 1
            for (int set = 0; set < kSets; ++set) {
                const T *q = at(kQ, set), *k = at(kK, set);
                if (set == 0 || a.q_moves) {
                    copy_transposed(tile + set * kSummed * Shape::kQueryPitch, Shape::kQueryPitch, Shape::kQueries,
                                    q ? q + first_query * a.steps[kQ].row + first * a.steps[kQ].column : nullptr,
                                    a.steps[kQ].row, a.steps[kQ].column, static_cast<int>(a.queries) - first_query,
                                    depths);
                }
                if (set == 0 || a.k_moves) {
                    copy_transposed(k_tile + set * kSummed * Shape::kKeyPitch, Shape::kKeyPitch, kKeys,
                                    k ? k + next.key * a.steps[kK].row + first * a.steps[kK].column : nullptr,
                                    a.steps[kK].row, a.steps[kK].column, keys, depths);
                }
            }
        } else if (keys > 0) {
#pragma unroll 1
            for (int set = 0; set < kSets; ++set) {
                const T* v = at(kV, set);
                if (set == 0 || a.v_moves) {
                    copy_rows(
                        tile + set * kSummed * Shape::kWidth, Shape::kWidth,
                        v ? v + (next.key + first) * a.steps[kV].row + first_column * a.steps[kV].column : nullptr,
                        a.steps[kV].row, a.steps[kV].column, keys - first, static_cast<int>(a.width) - first_column);
                }
            }
        }
        commit_copies();
        next.stage = next.stage + 1 < Shape::kStages ? next.stage + 1 : 0;
        if (++next.chunk * kSummed < (next.values ? keys : static_cast<int>(a.depth))) return;
        next.chunk = 0;
        if (next.values) next.key += kKeys;
        next.values = !next.values;
    }

    // The chunk that was copied the longest time ago, while the next one is on its way in place of the one used last.
    __device__ const T* take_chunk() {
        wait_copies<Shape::kStages - 2>();
        block_barrier();
        const T* const tile = tiles + used * Shape::kTile;
        used = used + 1 < Shape::kStages ? used + 1 : 0;
        copy_next();
        return tile;
    }

    // scores += q k^T of one block of keys, and for tangents dq k^T + q dk^T.
    __device__ void add_scores(T (&scores)[kSets][kRows][4]) {
#pragma unroll 1
        for (int first = 0; first < static_cast<int>(a.depth); first += kSummed) {
            const T* const q_tile = take_chunk();
            const T* const k_tile = q_tile + kSets * kSummed * Shape::kQueryPitch;
            const int depths = static_cast<int>(a.depth) - first, count = depths < kSummed ? depths : kSummed;
#pragma unroll 1
            for (int d = 0; d < count; ++d) {
                T q[kRows], k[4];
                read(q, q_tile + d * Shape::kQueryPitch + kRows * y);
                read(k, k_tile + d * Shape::kKeyPitch + 4 * x);
                add_product(scores[0], q, k);
#pragma unroll
                for (int set = 1; set < kSets; ++set) {
                    if (a.q_moves) {
                        T dq[kRows];
                        read(dq, q_tile + (set * kSummed + d) * Shape::kQueryPitch + kRows * y);
                        add_product(scores[set], dq, k);
                    }
                    if (a.k_moves) {
                        T dk[4];
                        read(dk, k_tile + (set * kSummed + d) * Shape::kKeyPitch + 4 * x);
                        add_product(scores[set], q, dk);
                    }
                }
            }
        }
    }

    // Scores to weights in shared memory; totals, and what was summed before, for the new maxima.
    __device__ void weigh(T (&scores)[kSets][kRows][4], int key) {
        const T scale = static_cast<T>(a.scale);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const int query = first_query + kRows * y + r;
            const std::int64_t shown_keys = visible(query) - key;
            T largest = maxima[r];
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const int other = 4 * x + c;
                const bool shown = other < shown_keys && query < static_cast<int>(a.queries);
                const std::int64_t place = query * a.steps[kMask].row + (key + other) * a.steps[kMask].column;
#pragma unroll
                for (int set = 0; set < kSets; ++set) {
                    const T* const mask = shown && (set == 0 ? a.masked : a.mask_moves) ? at(kMask, set) : nullptr;
                    scores[set][r][c] = mask ? fused(scale, scores[set][r][c], mask[place]) : scale * scores[set][r][c];
                }
                if (!shown) scores[0][r][c] = kLowest;
                largest = scores[0][r][c] > largest ? scores[0][r][c] : largest;
            }
            largest = row_maximum(largest);
            const T shift = largest == kLowest ? T(0) : largest;
            const T rescale = std::exp(maxima[r] - shift);
            maxima[r] = largest;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const T weight = std::exp(scores[0][r][c] - shift);
                scores[0][r][c] = weight;
#pragma unroll
                for (int set = 1; set < kSets; ++set) {
                    scores[set][r][c] = weight == T(0) ? T(0) : weight * scores[set][r][c];
                }
            }
#pragma unroll
            for (int set = 0; set < kSets; ++set) {
                const T* const row = scores[set][r];
                const T sum = row_sum((row[0] + row[1]) + (row[2] + row[3]));
                T& total = totals[set * Shape::kQueries + kRows * y + r];
                if (x == 0) total = fused(total, rescale, sum);
#pragma unroll
                for (int w = 0; w < kWidths; ++w) {
#pragma unroll
                    for (int c = 0; c < 4; ++c) sums[set][w][r][c] *= rescale;
                }
            }
        }
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                T* const place = weights + set * kKeys * Shape::kWeightPitch + Shape::weight_place(4 * x + c, y);
                if constexpr (kRows == 4) {
                    Four<T> four;
#pragma unroll
                    for (int r = 0; r < 4; ++r) four.values[r] = scores[set][r][c];
                    *reinterpret_cast<Four<T>*>(place) = four;
                } else {
#pragma unroll
                    for (int r = 0; r < kRows; ++r) place[r] = scores[set][r][c];
                }
            }
        }
    }

    // sums += weights v of one block of keys, and for tangents (w ds) v + w dv.
    __device__ void add_values(int key) {
        const int keys = seen - key < kKeys ? seen - key : kKeys;
        const bool moves = a.q_moves || a.k_moves || a.mask_moves;
#pragma unroll 1
        for (int first = 0; first < keys; first += kSummed) {
            const T* const v_tile = take_chunk();
            const int count = keys - first < kSummed ? keys - first : kSummed;
#pragma unroll 1
            for (int i = 0; i < count; ++i) {
                T weight[kSets][kRows];
#pragma unroll
                for (int set = 0; set < kSets; ++set) {
                    read(weight[set], weights + set * kKeys * Shape::kWeightPitch + Shape::weight_place(first + i, y));
                }
#pragma unroll
                for (int w = 0; w < kWidths; ++w) {
                    T v[4];
                    read(v, v_tile + i * Shape::kWidth + 64 * w + 4 * x);
                    add_product(sums[0][w], weight[0], v);
#pragma unroll
                    for (int set = 1; set < kSets; ++set) {
                        if (moves) add_product(sums[set][w], weight[set], v);
                        if (a.v_moves) {
                            T dv[4];
                            read(dv, v_tile + (set * kSummed + i) * Shape::kWidth + 64 * w + 4 * x);
                            add_product(sums[set][w], weight[0], dv);
                        }
                    }
                }
            }
        }
    }

    const AttentionArgument& a;
    int x, y, first_query, first_column;
    int seen = 0;  // keys that some query of the block sees
    struct {
        int key = 0, chunk = 0, stage = 0;  // block of keys, chunk of it, where it goes
        bool values = false;
    } next;
    int used = 0;  // the stage to be used next
    T *tiles, *weights, *totals;
    T** pointers;
    std::int64_t* causal_offset;  // in shared memory: registers are few
    T maxima[kRows];
    T sums[kSets][kWidths][kRows][4] = {};
};

template <class Shape>
__global__ void __launch_bounds__(kAttentionThreads, 1) attention(const AttentionArgument a) {
    begin_kernel();
    if constexpr (Shape::kTangents == 0) {
        const std::int64_t lane = static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
        if (lane >= a.lanes) return;  // the whole block
        AttentionBlock<Shape> block(a, lane, 0);
        block.run();
        block.write(true);
    } else {
        AttentionBlock<Shape> block(a, 0, blockIdx.y);
        block.run();
        block.write(a.writes_primal && blockIdx.y == 0);
    }
}

}  // namespace tqs::cuda
