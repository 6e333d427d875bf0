// Attention (attention.cuh has the formulas) of bfloat16 and float16 on tensor cores, sums in float32, in two kernels:
//
//     primal     the online softmax; writes out and, where tangents follow, of each row its state: out in float32, the
//                largest score m and 1 / sum w
//     tangents   per step of keys w = exp(s - m) again, then the sums (w ds) v + w dv and w ds of kTangents lanes
//                (many queries on sm_90a: attention_warpgroups.cuh)
//
//   grid x: splits of the keys, blocks of queries (those that see most first), heads of all samples
//   grid y: tangents: groups of kTangents lanes; primal: lanes of an ensemble, with z for those beyond its limit
//   block:  up to kMostWarps warps of kWarpQueries queries each
//
// Why twice. With m known there is nothing to find or to rescale while tangents are added up, no primal sum in
// registers, and the primal's share of their kernel is q k^T alone: in units of 2 D operations per pair of query and
// key (D = E) 1 + 4 kTangents for kTangents, 1.125 times what they would take alone for two and 1.25 for one.
//
// What limits it (expected; no GPU has run this). A multiprocessor of sm_90 does 4096 16-bit operations a cycle by
// wgmma and some 60 % of that by mma.sync: a warp's m16n8k16 takes 6.5 cycles. Shared memory gives 128 bytes a cycle, a
// ldmatrix takes 4. Cycles of 32 keys for four warps of 32 queries, where all of q, k and v move:
//
//                        products           shared memory       exp     L2: bytes per 1000 operations
//     D = 64,  2 lanes   288 x 6.5 = 1870   96 x 16 = 1540      260     5.9
//     D = 128, 1 lane    320 x 6.5 = 2080   96 x 16 = 1540      260     7.8
//
// (Every warp reads all right operands, for 32 queries at once: with 16 shared memory would be the limit.) Two blocks
// fit a multiprocessor, one multiplies where the other waits. Products alone allow 8 / 9 and 4 / 5 of 600 TFLOP/s on an
// H200, at 4 (D + E) operations per pair and tangent; with exp, conversions and barriers half of that is expected.
//
// Rounding, with h the roundoff of 16 bits (2^-8 or 2^-11), u that of float32: w and w ds are rounded before they are
// multiplied by v, as is usual; everything else is float32 (tensor cores cut sums where float32 rounds them). An
// element of out is off by at most (h + 2 |s error| + (T + 8) u) times sum w |v| / sum w and one rounding to 16 bits,
// where |s error| <= (D + 8) u sum |q k|; for float16, whose smallest step is 2^-24, by T 2^-25 max |v| more.
// Tangents likewise with |w ds| |v| + |w| |dv| + |w ds| |out|. |w ds| beyond 65504 is infinite in float16.
//
// Sums run in order of keys; splits are added in order of their number. Nothing depends on lanes or samples.
#pragma once

#include "cuda/device/attention.cuh"
#include "cuda/device/attention_fragments.cuh"

namespace tqs::cuda {

struct TensorArgument {
    AttentionArgument a;
    float scale, exponent_scale;  // of slopes, and of scores: times log2(e)
    bool mask_aligned;            // every 8 keys of its rows are 16 bytes at a multiple of 16
    int warps;
    int splits, split_keys;  // of the keys: how many, and keys of each but the last, a multiple of a step
    std::int64_t lanes;      // that the kernel computes: of an ensemble, the primal, or the tangents
    // [heads x queries, E + 2]: out, m log2(e) (0 where no key is seen), 1 / sum w; null where no tangents follow
    float* states;
    // Of several splits [splits, lanes, heads x queries, E + 2]: sum w v, m log2(e), sum w; of tangents: their sum,
    // sum w ds, nothing
    float* partials;

    // Where a row begins in states, and in the partials of a split and lane.
    __device__ std::int64_t state_of(std::uint32_t head, int row) const {
        return (static_cast<std::int64_t>(head) * a.queries + row) * (a.width + 2);
    }
};

// What is needed here and there, in shared memory: it and what follows from it take no registers from one step of keys
// to the next.
struct TensorNumbers {
    std::int64_t causal_offset;
    MatrixSteps mask;
    std::uint32_t head;
    int split, first_query;
    int first_key, end_key;  // of this split, as far as some query of the block sees
};

inline constexpr float kLog2E = 1.4426950408889634f;

// What a mask adds to a score times log2(e). Only -inf hides a key: finite numbers stay finite, bfloat16's lowest, too.
__device__ inline float in_powers(float mask) {
    constexpr float kLeast = std::numeric_limits<float>::lowest();
    const float power = kLog2E * mask;
    return mask < kLeast ? mask : power < kLeast ? kLeast : power;
}

// Where `head` of an operand lies: set 0 is the primal of `lane`, set n the tangent of first_tangent + n - 1. Null:
// absent, or a tangent that is zero.
__device__ inline char* operand_at(const AttentionArgument& a, int operand, int set, std::uint32_t head,
                                   std::int64_t lane, std::int64_t first_tangent) {
    if (operand == kMask && !a.masked) return nullptr;
    char* const data = set == 0 ? a.operands[operand].lane(lane, false)
                                : a.tangents[operand].lane(first_tangent + set - 1, operand != kOut);
    return data ? data + 2 * a.heads.offset(operand, head) : nullptr;
}

// Over the four lanes that share a row.
__device__ inline float row_sum_of(float value) {
    value += shuffle_xor(value, 1);
    return value + shuffle_xor(value, 2);
}

template <class Shape>
class TensorBlock {
    static_assert(sizeof(TensorNumbers) == 48);

  protected:
    using Element = typename Shape::Element;
    static constexpr int kTiles = Shape::kKeys / 8, kColumns = Shape::kDepth / 8;
    static constexpr float kLowest = -std::numeric_limits<float>::infinity();
    using Scores = cuda::Scores<kTiles>;
    using Sums = float[kWarpTiles][kColumns][4];

    // Set 0 has the primal of `lane`, set n the tangent of first_tangent + n - 1. Starts to copy.
    __device__ TensorBlock(const TensorArgument& argument, std::int64_t lane, std::int64_t first_tangent)
        : h(argument), a(argument.a) {
        const auto thread = static_cast<int>(threadIdx.x);
        g = thread % 32 / 4;
        t = thread % 4;
        queries = shared_memory();
        chunks = queries + Shape::query_bytes(h.warps);
        masks = reinterpret_cast<Element*>(chunks + kChunks * Shape::kChunk);
        shifts = reinterpret_cast<float*>(chunks + kChunks * Shape::kChunk + kWarpMask * h.warps);
        pointers = reinterpret_cast<char**>(shifts + Shape::queries(h.warps));
        numbers = reinterpret_cast<TensorNumbers*>(pointers + kAttentionOperands * Shape::kSets);
        const std::uint32_t each = static_cast<std::uint32_t>(Shape::queries(h.warps));
        const std::uint32_t blocks = (a.queries + each - 1) / each, splits = static_cast<std::uint32_t>(h.splits);
        const std::uint32_t place = blockIdx.x / splits, head = place / blocks;
        if (thread < kAttentionOperands * Shape::kSets) {
            pointers[thread] = operand_at(a, thread / Shape::kSets, thread % Shape::kSets, head, lane, first_tangent);
        }
        if (thread == 0) {
            TensorNumbers& n = *numbers;
            n.causal_offset = a.causal_offset.now();
            n.mask = a.steps[kMask];
            n.head = head;
            n.split = static_cast<int>(blockIdx.x % splits);
            n.first_query = static_cast<int>((blocks - 1 - place % blocks) * each);
            n.first_key = n.split * h.split_keys;
            n.end_key = static_cast<int>(a.keys);
            if (h.splits > 1 && n.first_key + h.split_keys < n.end_key) n.end_key = n.first_key + h.split_keys;
            n.end_key = visible(last_of(n.first_query + Shape::queries(h.warps)));
        }
        block_barrier();
#pragma unroll 1
        for (int i = 0; i < h.warps * (a.q_moves ? Shape::kSets : 1); ++i) {
            const int warp = i % h.warps, set = i / h.warps;
            const int from = numbers->first_query + warp * kWarpQueries;
            const char* const q = at(kQ, set);
            copy_rows_async<Shape>(queries + (warp * Shape::kSets + set) * kWarpQueries * Shape::kRowBytes,
                                   kWarpQueries, q ? q + from * row_bytes(kQ) : nullptr, row_bytes(kQ),
                                   static_cast<int>(a.queries) - from, static_cast<int>(a.depth), 32 * h.warps);
        }
        copy_next();
    }

    // Null: absent, or a tangent that is zero.
    __device__ char* at(int operand, int set) const { return in_global(pointers[operand * Shape::kSets + set]); }
    __device__ std::int64_t row_bytes(int operand) const { return 2 * a.steps[operand].row; }
    __device__ int warp_query() const {
        return numbers->first_query + static_cast<int>(threadIdx.x) / 32 * kWarpQueries;
    }
    __device__ int query(int m, int half) const { return warp_query() + 16 * m + 8 * half + g; }
    // The last query before `end`.
    __device__ int last_of(int end) const {
        return (end < static_cast<int>(a.queries) ? end : static_cast<int>(a.queries)) - 1;
    }
    // Where the keys of this split that a query sees end.
    __device__ int visible(int number) const {
        const int end = numbers->end_key;
        return a.causal ? seen_before(end, number, numbers->causal_offset) : end;
    }
    // The same where there may be no such query.
    __device__ int shown(int number) const { return number < static_cast<int>(a.queries) ? visible(number) : 0; }
    // Whether a query of this warp sees a key of the step from `key`, the same for all its lanes.
    __device__ bool active(int key) const {
        const int first = warp_query();
        return first < static_cast<int>(a.queries) && key < visible(last_of(first + kWarpQueries));
    }
    // Whether all of them, if they exist, see all of those keys.
    __device__ bool full(int key) const {
        const int first = warp_query();
        return first + kWarpQueries <= static_cast<int>(a.queries) && key + Shape::kKeys <= visible(first);
    }

    // Starts to copy the next chunk: a step's keys, then its values, then the keys of the next step.
    __device__ void copy_next() {
        const bool values = next % 2 != 0, moves = values ? a.v_moves : a.k_moves;
        const int key = numbers->first_key + next / 2 * Shape::kKeys, end_key = numbers->end_key;
        const int operand = values ? kV : kK;
        unsigned char* const to = chunks + next % kChunks * Shape::kChunk;
        if (key < end_key) {
#pragma unroll 1
            for (int set = 0; set < (moves ? Shape::kSets : 1); ++set) {
                const char* const from = at(operand, set);
                copy_rows_async<Shape>(to + set * Shape::kKeys * Shape::kRowBytes, Shape::kKeys,
                                       from ? from + key * row_bytes(operand) : nullptr, row_bytes(operand),
                                       end_key - key, static_cast<int>(values ? a.width : a.depth), 32 * h.warps);
            }
        }
        commit_copies();
        ++next;
    }
    // The chunk copied last, while the next one is on its way in place of the one used before.
    __device__ const unsigned char* take_chunk() {
        wait_copies<0>();
        block_barrier();
        const unsigned char* const chunk = chunks + (next - 1) % kChunks * Shape::kChunk;
        copy_next();
        return chunk;
    }
    __device__ static const unsigned char* of_set(const unsigned char* chunk, int set) {
        return chunk + set * Shape::kKeys * Shape::kRowBytes;
    }
    // The warp's rows of q, then those of each dq.
    __device__ const unsigned char* own_queries() const {
        return queries + static_cast<int>(threadIdx.x) / 32 * Shape::kSets * kWarpQueries * Shape::kRowBytes;
    }

    // Calls visit(m, tile, c) for every score of this lane: that of query(m, c / 2) and key 8 tile + 2 t + c % 2.
    template <class Visit>
    __device__ static void for_each(const Visit& visit) {
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
                for (int c = 0; c < 4; ++c) visit(m, tile, c);
            }
        }
    }
    __device__ int key_of(int key, int tile, int c) const { return key + 8 * tile + 2 * t + c % 2; }
    // Calls visit(m, tile, c, value) with the elements of the mask or its tangent; `hidden` where a query does not see
    // the key. Through shared memory, 8 keys at a time: rows are read in one piece, and few addresses take registers.
    template <class Visit>
    __device__ void for_each_mask(int set, int key, float hidden, const Visit& visit) const {
        const int lane = static_cast<int>(threadIdx.x) % 32, row = warp_query() + lane, end = shown(row);
        const auto* const mask = reinterpret_cast<const Element*>(at(kMask, set));
        Element* const own = masks + (warp_query() - numbers->first_query) * 8;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            const int first = key + 8 * tile;
            int i = 0;
            if constexpr (Shape::kTangents == 0) {  // the others have no registers for it
                if (mask && h.mask_aligned && first < end) {
                    *reinterpret_cast<Vector*>(own + 8 * lane) =
                        *reinterpret_cast<const Vector*>(mask + row * numbers->mask.row + first);
                    i = end - first;
                }
            }
#pragma unroll 1
            for (; i < 8; ++i) {
                if (first + i < end && mask) {
                    own[8 * lane + i] = mask[row * numbers->mask.row + (first + i) * numbers->mask.column];
                } else {
                    store(own + 8 * lane + i, first + i < end ? 0.0f : hidden);
                }
            }
            warp_barrier();
#pragma unroll
            for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    visit(m, tile, c, to_float(own[8 * (16 * m + c / 2 * 8 + g) + 2 * t + c % 2]));
                }
            }
            warp_barrier();
        }
    }

    // Products of the step from `key` to scores times log2(e), -inf where a query does not see the key.
    __device__ void finish(Scores& scores, int key) const {
        if (a.masked) {
            for_each_mask(0, key, kLowest, [&](int m, int tile, int c, float mask) {
                scores[m][tile][c] = fused(h.exponent_scale, scores[m][tile][c], in_powers(mask));
            });
            return;
        }
        for_each([&](int m, int tile, int c) { scores[m][tile][c] *= h.exponent_scale; });
        if (full(key)) return;
        int ends[kWarpTiles][2];
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) ends[m][half] = shown(query(m, half)) - key - 2 * t;
        }
        for_each([&](int m, int tile, int c) {
            if (8 * tile + c % 2 >= ends[m][c / 2]) scores[m][tile][c] = kLowest;
        });
    }

    // Calls write(row, m, half) for the rows of this lane that exist.
    template <class Write>
    __device__ void for_each_row(const Write& write) const {
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (query(m, half) < static_cast<int>(a.queries)) write(query(m, half), m, half);
            }
        }
    }
    // Calls write(column, tile) for the pairs of columns of this lane that exist.
    template <class Write>
    __device__ void for_each_pair(const Write& write) const {
#pragma unroll
        for (int tile = 0; tile < kColumns; ++tile) {
            if (8 * tile + 2 * t < static_cast<int>(a.width)) write(8 * tile + 2 * t, tile);
        }
    }
    __device__ void store_out(int set, int row, int column, float first, float second) const {
        char* const to = at(kOut, set) + row * row_bytes(kOut) + 2 * column;
        *reinterpret_cast<std::uint32_t*>(to) = pair_of(Element{}, first, second);
    }
    __device__ std::int64_t state_of(int row) const { return h.state_of(numbers->head, row); }
    __device__ float* partial_of(std::int64_t lane, int row) const {
        return h.partials + (numbers->split * h.lanes + lane) * a.heads.count * a.queries * (a.width + 2) +
               state_of(row);
    }

    const TensorArgument& h;
    const AttentionArgument& a;
    int g, t;
    int next = 0;  // chunk
    unsigned char *queries, *chunks;
    Element* masks;
    float* shifts;
    char** pointers;
    TensorNumbers* numbers;
};

}  // namespace tqs::cuda
