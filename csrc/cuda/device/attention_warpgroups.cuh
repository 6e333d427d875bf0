// Tangents of 16-bit attention (attention_tensor.cuh has the formulas) by wgmma, for sm_90a: of kTangents lanes at a
// time, whose weights follow from the states that the primal's kernel left. A mask has none.
//
//   grid x: blocks of 128 queries, heads of all samples     grid y: groups of lanes
//   block:  a warpgroup that fills, whose registers the others take, then two with 64 queries each
//
// Shared memory holds *tiles* of 64 rows, of queries or keys, in *slabs* of 64 columns: [D / 64][64 rows][128 bytes],
// the 16 bytes v of row r at v xor r mod 8. That is wgmma's 128-byte swizzle, K-major of q and k, and of v, whose rows
// are what a product sums over, the same memory read by rows (warpgroup_instructions.cuh).
//
//     chunks  ring of kChunks [1 + tangents] tiles: k and dk of a step of 64 keys, v and dv of it, k and dk of the next
//     masks   beside every k a slab of 128 rows: what is added to the scores
//     dq      [tangents][2 warpgroups] tiles; q stays in the registers of those who multiply
//
// `full` of a chunk says that its copies are there, `empty` that both warpgroups are done with it. The copies are
// cp.async and not bulk copies: rows lie at strides of their own, in lanes with addresses of their own, so that tensor
// maps would be one per operand and lane, made by the driver at every call. A thread waits for its copies of a chunk
// after it has started those of the next, shows them to wgmma, and arrives.
//
// What limits it (expected; no GPU has run this). A multiprocessor does 4096 operations a cycle by wgmma, m64n64k16 in
// 32 cycles; shared memory gives 128 bytes a cycle, of which such a product takes 2 KiB for either operand that lies
// there. (So q in registers: all of them from shared memory would keep it busy all the time.) Cycles of a step:
//
//                         products     shared memory, with copies     exp     L2: bytes per cycle of products
//     D = 64,  2 lanes    2304         1408 + 384                     512     21
//     D = 128, 1 lane     2560         1536 + 512                     512     26
//
// (A mask: 256 more of shared memory and, where queries do not share it, 7 bytes per cycle.)
// Published measurements of an H100 find some 25 bytes per cycle from L2. One warpgroup multiplies where the other
// computes weights, and each has products under way while it does: the first slopes while it computes w, the slopes of
// the next lane or the values' of the one before while it computes w ds. Of products alone 8 / 9 and 4 / 5 are
// tangents': with three quarters of the 780 TFLOP/s that large products reach on an H200 some 500 and 450 TFLOP/s,
// counted at 4 (D + E) operations per pair and tangent; the kernel of mma.sync is expected at 300.
//
// Rounding and bounds are those of attention_tensor.cuh. Sums run in order of keys, (w ds) v before w dv in each step;
// nothing depends on lanes, samples, or how many lanes are in a group.
#pragma once

#include "cuda/device/attention_tensor.cuh"
#include "cuda/device/warpgroup_instructions.cuh"

namespace tqs::cuda {

inline constexpr int kSlabRows = 64;  // queries of a warpgroup, or keys of a step
inline constexpr int kSlabColumns = 64;
inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kMultiplyingGroups = 2;
inline constexpr int kBlockQueries = kSlabRows * kMultiplyingGroups;
inline constexpr int kBlockThreads = kWarpgroupThreads * (1 + kMultiplyingGroups);
// Of this many blocks those that see most come first. With the heads in turn the last one's find multiprocessors idle
// (16 heads of 2048 positions, in a list schedule on 132 of them: 1.6 times the mean load, so 1.03); all heads at once
// have more keys than L2 holds.
inline constexpr std::uint32_t kBlocksTogether = 256;

template <class Element_, int depth, int tangents, bool masked>
struct WarpgroupShape {
    static_assert(depth % kSlabColumns == 0);
    using Element = Element_;
    static constexpr int kDepth = depth, kTangents = tangents, kSets = 1 + tangents;
    static constexpr bool kMasked = masked;
    static constexpr int kSlab = kSlabRows * 128;  // bytes
    static constexpr int kTile = kSlab * (depth / kSlabColumns);
    static constexpr int kChunk = kSets * kTile;
    static constexpr int kSteps = masked && depth > 64 ? 2 : 3;  // what there is room for
    static constexpr int kChunks = 2 * kSteps;
    static constexpr int kMask = kMultiplyingGroups * kSlab;
    static constexpr int kQueries = tangents * kMultiplyingGroups * kTile;

    static constexpr std::size_t shared_bytes() {
        constexpr int kRest = kChunks * 2 * 8 + kAttentionOperands * kSets * 8;  // barriers and pointers
        constexpr int kMasks = masked ? kSteps * kMask : 0;
        return (kAtomBytes + kQueries + kChunks * kChunk + kMasks + kRest + 127) / 128 * 128;
    }
    // Of vector `vector` of row `row`, in bytes from the slab's begin.
    __device__ static int place(int row, int vector) { return 128 * row + 16 * (vector ^ row % 8); }
    // In a descriptor, from a tile to the 16 columns `step` (of q and k), and to the 16 rows `step` (of v).
    __device__ static std::uint64_t columns(int step) {
        return static_cast<std::uint64_t>(step / 4 * kSlab + step % 4 * 32) / 16;
    }
    __device__ static std::uint64_t rows(int step) { return static_cast<std::uint64_t>(step * 16 * 128) / 16; }
};

// A chunk of the ring and the parity of its phase, one after the other.
template <int chunks>
struct RingPlace {
    int chunk = 0, parity = 0;

    __device__ void next() {
        if (++chunk < chunks) return;
        chunk = 0;
        parity = 1 - parity;
    }
};

template <class Shape>
class WarpgroupBlock {
  protected:
    using Place = RingPlace<Shape::kChunks>;
    static constexpr int kKeys = kSlabRows;

  public:
    // By all threads. Set n of an operand is the tangent of lane first_tangent + n - 1.
    __device__ WarpgroupBlock(const TensorArgument& argument, std::int64_t first_tangent)
        : h(argument), a(argument.a), causal_offset(argument.a.causal_offset.now()) {
        const std::uint32_t blocks = (a.queries + kBlockQueries - 1) / kBlockQueries;
        const std::uint32_t together = blocks < kBlocksTogether ? kBlocksTogether / blocks : 1;
        const std::uint32_t first_head = blockIdx.x / (together * blocks) * together;
        const std::uint32_t heads = a.heads.count - first_head < together ? a.heads.count - first_head : together;
        const std::uint32_t place = blockIdx.x - first_head * blocks;
        head = first_head + place % heads;
        first_query = static_cast<int>(blocks - 1 - place / heads) * kBlockQueries;
        end_key = visible(first_query + kBlockQueries);
        moving_queries = shared_memory() + (kAtomBytes - shared_address(shared_memory()) % kAtomBytes) % kAtomBytes;
        chunks = moving_queries + Shape::kQueries;
        masks = chunks + Shape::kChunks * Shape::kChunk;
        full = reinterpret_cast<Barrier*>(masks + (Shape::kMasked ? Shape::kSteps * Shape::kMask : 0));
        empty = full + Shape::kChunks;
        pointers = reinterpret_cast<char**>(empty + Shape::kChunks);
        const auto thread = static_cast<int>(threadIdx.x);
        if (thread < kAttentionOperands * Shape::kSets) {
            pointers[thread] = operand_at(a, thread / Shape::kSets, thread % Shape::kSets, head, 0, first_tangent);
        }
        if (thread == 0) {
            for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
                make_barrier(full + chunk, kWarpgroupThreads);
                make_barrier(empty + chunk, kMultiplyingGroups * kWarpgroupThreads / 32);
            }
            publish_barriers();
        }
        block_barrier();
    }

    // By the first warpgroup.
    __device__ void fill() const {
        Place place, before;
        const int count = 2 * steps(end_key);
#pragma unroll 1
        for (int number = 0; number <= count; ++number) {
            if (number < count) {
                wait_phase(empty + place.chunk, 1 - place.parity);
                if (number == 0) copy_moving_queries();
                copy_chunk(chunks + place.chunk * Shape::kChunk, number % 2 == 0 ? kK : kV, number / 2 * kKeys);
                if (Shape::kMasked && number % 2 == 0) {
                    copy_slab<kBlockQueries>(masks + mask_of(place), kMask, 0, first_query, static_cast<int>(a.queries),
                                             number / 2 * kKeys, end_key);
                }
                place.next();
            }
            commit_copies();
            wait_copies<1>();
            if (number == 0) continue;
            show_to_products();
            arrive(full + before.chunk);
            before.next();
        }
    }

  protected:
    __device__ char* at(int operand, int set) const { return pointers[operand * Shape::kSets + set]; }
    __device__ std::int64_t row_bytes(int operand) const { return 2 * a.steps[operand].row; }
    __device__ static int steps(int keys) { return (keys + kKeys - 1) / kKeys; }
    // Where the mask of the keys at `place`, a chunk of even number, begins in `masks`.
    __device__ static int mask_of(const Place& place) { return place.chunk * (Shape::kMask / 2); }
    // Where the keys that queries before `end` see end.
    __device__ int visible(int end) const {
        const auto queries = static_cast<int>(a.queries), keys = static_cast<int>(a.keys);
        return a.causal ? seen_before(keys, (end < queries ? end : queries) - 1, causal_offset) : keys;
    }

    const TensorArgument& h;
    const AttentionArgument& a;
    std::int64_t causal_offset;
    std::uint32_t head;
    int first_query, end_key;
    unsigned char *moving_queries, *chunks, *masks;
    Barrier *full, *empty;
    char** pointers;

  private:
    __device__ void copy_moving_queries() const {
#pragma unroll 1
        for (int tile = 0; tile < Shape::kTangents * kMultiplyingGroups; ++tile) {
            copy_tile(moving_queries + tile * Shape::kTile, kQ, 1 + tile / kMultiplyingGroups,
                      first_query + tile % kMultiplyingGroups * kSlabRows, static_cast<int>(a.queries),
                      static_cast<int>(a.depth));
        }
    }
    __device__ void copy_chunk(unsigned char* chunk, int operand, int key) const {
#pragma unroll 1
        for (int set = 0; set < Shape::kSets; ++set) {
            copy_tile(chunk + set * Shape::kTile, operand, set, key, end_key,
                      static_cast<int>(operand == kK ? a.depth : a.width));
        }
    }
    __device__ void copy_tile(unsigned char* tile, int operand, int set, int row, int end, int columns) const {
#pragma unroll 1
        for (int column = 0; column < Shape::kDepth; column += kSlabColumns) {
            copy_slab<kSlabRows>(tile + column / kSlabColumns * Shape::kSlab, operand, set, row, end, column, columns);
        }
    }
    // Starts to copy `rows` rows of a slab, from row `row` and column `column` (a multiple of 8) on; rows from `end`
    // and vectors from `columns` on, and all of a tangent that is zero, become 0.
    template <int rows>
    __device__ void copy_slab(unsigned char* slab, int operand, int set, int row, int end, int column,
                              int columns) const {
        constexpr int kVectors = kSlabColumns / 8, kAtOnce = kWarpgroupThreads / kVectors;
        static_assert(kAtOnce % 8 == 0, "a thread's rows are swizzled alike");
        const auto thread = static_cast<int>(threadIdx.x);
        row += thread / kVectors;
        column += thread % kVectors * 8;
        const char* from = at(operand, set);
        const int count = from && column < columns ? end - row : 0;
        from += row * row_bytes(operand) + 2 * column;
        unsigned char* const to = slab + Shape::place(thread / kVectors, thread % kVectors);
#pragma unroll
        for (int i = 0; i < rows; i += kAtOnce) {
            copy_async(to + 128 * i, from, i < count);
            from += kAtOnce * row_bytes(operand);
        }
    }
};

}  // namespace tqs::cuda
