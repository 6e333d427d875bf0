// One sample and head of an attention task, and the scratch that its kernels share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/program_kernels.h"
#include "cpu/panel/layout.h"

namespace tqs::panel {

// Keys of one block of the online softmax. Large enough that reading and writing the sums over values (once per block)
// is small beside the 4 kKeys multiply-adds on each; small enough that the block's weights stay in the first cache.
static constexpr std::int64_t kKeys = 64;

// Vectors of queries in a block: 1 or 2. More would read keys and values less often, but triangles of hidden keys are
// computed by whole vectors, and 3 or 4 (with fewer rows) were no faster on Zen 5.
static constexpr std::int64_t kColumns = 2;

// The last two axes of an operand at one sample and head, for the lanes that are computed together.
template <class T>
struct LaneMatrix {
    const Operand* operand;
    std::int64_t offset;  // elements from sample 0
    std::int64_t row, column;
    std::int64_t first_lane;
    bool tangent;

    // Null: absent, or a tangent that is zero.
    T* lane(std::int64_t index) const {
        if (!operand->data && !operand->lanes) return nullptr;
        T* data = lane_data<T>(*operand, first_lane + index, tangent);
        return data ? data + offset : nullptr;
    }
};

template <class T>
struct Head {
    LaneMatrix<T> q, k, v, mask, out;
    std::int64_t lanes;  // 0: primal, the others tangents
    std::int64_t queries, keys, depth, width;
    T scale;
    bool causal;
    std::int64_t causal_offset;

    // Keys that query `query` sees are 0 ... visible(query) - 1.
    std::int64_t visible(std::int64_t query) const {
        return causal ? std::clamp<std::int64_t>(query + causal_offset + 1, 0, keys) : keys;
    }
    // Whether the scores (or the result at all) have a tangent in this lane.
    bool scores_move(std::int64_t lane) const { return q.lane(lane) || k.lane(lane) || mask.lane(lane); }
    bool moves(std::int64_t lane) const { return scores_move(lane) || v.lane(lane); }
};

// Calls body(head) for every lane (in a tangent rollout: for all lanes together), sample and head.
template <class T, class Body>
static void for_each_head(const AttentionTask& task, const Body& body) {
    const int leading = task.out.rank - 2;
    std::int64_t heads = 1;
    for (int axis = 0; axis < leading; ++axis) heads *= task.out.sizes[axis];
    const std::int64_t passes = task.extent.tangent ? 1 : task.extent.lanes;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        for (std::int64_t sample = 0; sample < task.extent.samples; ++sample) {
            for (std::int64_t index = 0; index < heads; ++index) {
                const auto at = [&](const Operand& operand) {
                    std::int64_t offset = sample * operand.sample_stride, rest = index;
                    for (int axis = leading - 1; axis >= 0; --axis) {
                        offset += rest % task.out.sizes[axis] * operand.strides[axis];
                        rest /= task.out.sizes[axis];
                    }
                    return LaneMatrix<T>{
                        &operand,           offset, operand.strides[leading], operand.strides[leading + 1], pass,
                        task.extent.tangent};
                };
                body(Head<T>{.q = at(task.q),
                             .k = at(task.k),
                             .v = at(task.v),
                             .mask = at(task.mask),
                             .out = at(task.out),
                             .lanes = task.extent.tangent ? task.extent.lanes : 1,
                             .queries = task.out.sizes[leading],
                             .keys = task.k.sizes[leading],
                             .depth = task.q.sizes[leading + 1],
                             .width = task.out.sizes[leading + 1],
                             .scale = static_cast<T>(task.scale),
                             .causal = task.causal,
                             .causal_offset = task.causal_offset});
            }
        }
    }
}

// Rows of adjacent elements, `stride` apart; null: not there, or a tangent that is zero.
template <class T>
struct Rows {
    const T* data = nullptr;
    std::int64_t stride = 0;
};

// Scratch of a block of at most B queries. Dp and Ep: D and E rounded up to whole vectors.
//
//                               by columns (attention_columns.h)         by rows (attention_rows.h)
//   queries   scaled q          [lanes, Dp, B]                           [lanes, B, Dp], padded with 0
//   weights   exp(s - maximum)  [kKeys, B]                               [B, kKeys]
//   moved     weights * ds      [kKeys, B] of one lane                   [B, kKeys]
//   bias      mask or dmask     [kKeys, B]                               [kKeys] of one query
//   totals    of weights, moved over keys: [lanes, B]; by rows they are `lane_totals` [lanes, B, kLanes] until the end
//   sums      of w v, unnormalised: [lanes, B, Ep]
//   maxima    running maxima [B]; `rescale` [B] is exp(old maximum - new)
//   partial   [kKeys, kLanes] products of one query with each key, not yet summed across lanes
//   rows      [4, kKeys, max(Dp, Ep)] copies of k, dk, v, dv where their last stride is not 1
template <class V>
struct AttentionScratch {
    using T = typename V::Element;
    static constexpr std::int64_t kBlock = kColumns * V::kLanes;

    T *queries, *weights, *moved, *bias, *totals, *lane_totals, *sums, *maxima, *rescale, *partial, *rows;
    std::int64_t depth, width;  // Dp, Ep
    std::int64_t elements;

    AttentionScratch(const AttentionTask& task, void* memory) {
        const int leading = task.out.rank - 2;
        const std::int64_t lanes = task.extent.tangent ? task.extent.lanes : 1;
        depth = round_up(task.q.sizes[leading + 1], V::kLanes);
        width = round_up(task.out.sizes[leading + 1], V::kLanes);
        elements = 0;
        const auto take = [&](std::int64_t count) {
            T* at = memory ? static_cast<T*>(memory) + elements : nullptr;
            elements += count;
            return at;
        };
        queries = take(lanes * depth * kBlock);
        weights = take(kKeys * kBlock);
        moved = take(kKeys * kBlock);
        bias = take(kKeys * kBlock);
        totals = take(lanes * kBlock);
        lane_totals = take(lanes * kBlock * V::kLanes);
        sums = take(lanes * kBlock * width);
        maxima = take(kBlock);
        rescale = take(kBlock);
        partial = take(kKeys * V::kLanes);
        rows = take(4 * kKeys * std::max(depth, width));
    }

    // A copy of rows [first, first + count) of a matrix, or themselves where their elements are adjacent. `place` 0
    // ... 3.
    Rows<T> adjacent(const LaneMatrix<T>& matrix, std::int64_t lane, std::int64_t first, std::int64_t count,
                     std::int64_t columns, int place) const {
        const T* data = matrix.lane(lane);
        if (!data) return {};
        data += first * matrix.row;
        if (matrix.column == 1) return {data, matrix.row};
        T* copy = rows + place * kKeys * std::max(depth, width);
        for (std::int64_t i = 0; i < count; ++i) {
            for (std::int64_t j = 0; j < columns; ++j) copy[i * columns + j] = data[i * matrix.row + j * matrix.column];
        }
        return {copy, columns};
    }
};

// Covers [0, count) by body(first, std::integral_constant<int, size>): as many of size `most`, a power of two, as fit,
// then one each of smaller powers. (Every size would be one instance of a tile; powers are a third of that.)
template <int most, class Body>
static inline void for_tiles(std::int64_t count, const Body& body, std::int64_t first = 0) {
    for (; first + most <= count; first += most) body(first, std::integral_constant<int, most>{});
    if constexpr (most > 1) {
        if (first < count) for_tiles<most / 2>(count, body, first);
    }
}

}  // namespace tqs::panel
