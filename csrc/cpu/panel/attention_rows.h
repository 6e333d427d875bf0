// A few queries, too few to fill a vector: each by itself, its products with a key along the vector lanes. Every key
// and value is read once per block and lane of the rollout, so that a single query over many keys (a decoding step)
// moves at the speed of memory.
#pragma once

#include "cpu/panel/attention_tiles.h"

namespace tqs::panel {

template <class V>
struct RowBlock {
    using T = typename V::Element;
    using Vector = typename V::Vector;
    static constexpr std::int64_t B = AttentionScratch<V>::kBlock;

    const Head<T>& head;
    const AttentionScratch<V>& s;
    std::int64_t first_query, queries;

    // partial[key] += k[key] q, one vector of sums per key.
    template <int rows>
    static void add_dots(const T* k, std::int64_t stride, const T* q, std::int64_t depth, Vector (&sums)[rows]) {
        const T* at[rows];
        for (int r = 0; r < rows; ++r) at[r] = k + r * stride;
        std::int64_t d = 0;
        for (; d + V::kLanes <= depth; d += V::kLanes) {
            const Vector value = V::load(q + d);
            for (int r = 0; r < rows; ++r) sums[r] = V::multiply_add(V::load_any(at[r] + d), value, sums[r]);
        }
        if (d < depth) {
            const Vector value = V::load(q + d);
            for (int r = 0; r < rows; ++r) {
                sums[r] = V::multiply_add(V::load_partial(at[r] + d, depth - d), value, sums[r]);
            }
        }
    }

    // finish(key, sums) for vectors of keys, sums = k q + dk q0; null k or dk add nothing. Lanes beyond `keys` hold
    // rubbish.
    template <class Finish>
    void scores(Rows<T> k, const T* q, Rows<T> dk, const T* q0, std::int64_t keys, const Finish& finish) const {
        for_tiles<V::kRows>(keys, [&](std::int64_t key, auto rows) {
            Vector sums[rows.value];
            for (Vector& sum : sums) sum = V::broadcast(T{0});
            if (k.data) add_dots(k.data + key * k.stride, k.stride, q, head.depth, sums);
            if (dk.data) add_dots(dk.data + key * dk.stride, dk.stride, q0, head.depth, sums);
            for (int r = 0; r < rows.value; ++r) V::store(s.partial + (key + r) * V::kLanes, sums[r]);
        });
        for (std::int64_t key = 0; key < keys; key += V::kLanes) {
            Vector rows[V::kLanes];
            for (int r = 0; r < V::kLanes; ++r) rows[r] = V::load(s.partial + (key + r) * V::kLanes);
            finish(key, sum_across<V>(rows));
        }
    }

    // Keys [first_key, first_key + keys) of the mask of one query; 0 behind them.
    const T* copy_mask(const T* mask, std::int64_t query, std::int64_t first_key, std::int64_t keys) const {
        const T* source = mask + query * head.mask.row + first_key * head.mask.column;
        for (std::int64_t key = 0; key < keys; ++key) s.bias[key] = source[key * head.mask.column];
        std::fill(s.bias + keys, s.bias + round_up(keys, V::kLanes), T{0});
        return s.bias;
    }

    // As ColumnBlock::weigh, of one query: scores [kKeys] in `weights`, -inf where there is no key to see.
    void weigh(T* weights, std::int64_t query) const {
        constexpr T lowest = -std::numeric_limits<T>::infinity();
        T maximum = s.maxima[query];
        for (std::int64_t key = 0; key < kKeys; ++key) maximum = weights[key] > maximum ? weights[key] : maximum;
        const Vector before = V::broadcast(s.maxima[query]);
        s.maxima[query] = maximum;
        const Vector shift = V::broadcast(maximum == lowest ? T{0} : maximum);
        const Vector rescale = exp_of_negative<V>(before - shift);
        s.rescale[query] = rescale[0];
        T* totals = s.lane_totals + query * V::kLanes;
        Vector total = V::load(totals) * rescale;
        for (std::int64_t key = 0; key < kKeys; key += V::kLanes) {
            const Vector weight = exp_of_negative<V>(V::load(weights + key) - shift);
            V::store(weights + key, weight);
            total += weight;
        }
        V::store(totals, total);
    }

    void run(std::int64_t first_key, std::int64_t block_keys) const {
        const Head<T>& h = head;
        const auto seen = [&](std::int64_t query) {
            return std::clamp<std::int64_t>(h.visible(first_query + query) - first_key, 0, block_keys);
        };
        const Rows<T> k = s.adjacent(h.k, 0, first_key, block_keys, h.depth, 0);
        const Rows<T> v = s.adjacent(h.v, 0, first_key, block_keys, h.width, 1);
        const T* mask = h.mask.lane(0);
        for (std::int64_t query = 0; query < queries; ++query) {
            const std::int64_t keys = seen(query);
            T* weights = s.weights + query * kKeys;
            const T* bias = mask ? copy_mask(mask, first_query + query, first_key, keys) : nullptr;
            scores(k, s.queries + query * s.depth, {}, nullptr, keys, [&](std::int64_t key, Vector sums) {
                V::store(weights + key, bias ? sums + V::load(bias + key) : sums);
            });
            std::fill(weights + keys, weights + kKeys, -std::numeric_limits<T>::infinity());
            weigh(weights, query);
        }
        add_values<V, false>(s.weights, v, s.weights, {}, queries, h.width, seen, s, s.sums);
        for (std::int64_t lane = 1; lane < h.lanes; ++lane) {
            if (!h.moves(lane)) continue;
            const bool moves = h.scores_move(lane);
            const Rows<T> dk = s.adjacent(h.k, lane, first_key, block_keys, h.depth, 2);
            const Rows<T> dv = s.adjacent(h.v, lane, first_key, block_keys, h.width, 3);
            const T* dmask = h.mask.lane(lane);
            for (std::int64_t query = 0; moves && query < queries; ++query) {
                const std::int64_t keys = seen(query), row = lane * B + query;
                const T* bias = dmask ? copy_mask(dmask, first_query + query, first_key, keys) : nullptr;
                const T* weights = s.weights + query * kKeys;
                T *moved = s.moved + query * kKeys, *totals = s.lane_totals + row * V::kLanes;
                const Vector zero = V::broadcast(T{0});
                Vector total = V::load(totals) * V::broadcast(s.rescale[query]);
                scores(h.q.lane(lane) ? k : Rows<T>{}, s.queries + row * s.depth, dk, s.queries + query * s.depth, keys,
                       [&](std::int64_t key, Vector slope) {
                           if (bias) slope += V::load(bias + key);
                           const Vector weight = V::load(weights + key);  // 0 behind the keys, where slope is rubbish
                           const Vector part = weight == zero ? zero : weight * slope;
                           V::store(moved + key, part);
                           total += part;
                       });
                std::fill(moved + keys, moved + kKeys, T{0});
                V::store(totals, total);
            }
            add_values<V, false>(s.moved, moves ? v : Rows<T>{}, s.weights, dv, queries, h.width, seen, s,
                                 s.sums + lane * B * s.width);
        }
    }

    void sum_totals() const {
        for (std::int64_t query = 0; query < queries; ++query) {
            for (std::int64_t lane = 0; lane < head.lanes; lane += V::kLanes) {
                const std::int64_t live = std::min<std::int64_t>(V::kLanes, head.lanes - lane);
                Vector rows[V::kLanes];
                for (int r = 0; r < V::kLanes; ++r) {
                    rows[r] =
                        r < live ? V::load(s.lane_totals + ((lane + r) * B + query) * V::kLanes) : V::broadcast(T{0});
                }
                const Vector sums = sum_across<V>(rows);
                for (int r = 0; r < live; ++r) s.totals[(lane + r) * B + query] = sums[r];
            }
        }
    }
};

// Queries [first, end), at most kBlock.
template <class V>
static void attend_rows(const Head<typename V::Element>& head, std::int64_t first, std::int64_t end,
                        const AttentionScratch<V>& s) {
    using T = typename V::Element;
    constexpr std::int64_t B = AttentionScratch<V>::kBlock;
    const std::int64_t queries = end - first;
    for (std::int64_t lane = 0; lane < head.lanes; ++lane) {
        const T* q = head.q.lane(lane);
        for (std::int64_t query = 0; q && query < queries; ++query) {
            T* packed = s.queries + (lane * B + query) * s.depth;
            for (std::int64_t d = 0; d < s.depth; ++d) {
                packed[d] = d < head.depth ? head.scale * q[(first + query) * head.q.row + d * head.q.column] : T{0};
            }
        }
        std::fill_n(s.sums + lane * B * s.width, queries * s.width, T{0});
        std::fill_n(s.lane_totals + lane * B * V::kLanes, queries * V::kLanes, T{0});
    }
    std::fill_n(s.maxima, queries, -std::numeric_limits<T>::infinity());
    const RowBlock<V> block{head, s, first, queries};
    const std::int64_t visible = head.visible(end - 1);
    for (std::int64_t key = 0; key < visible; key += kKeys) block.run(key, std::min(kKeys, visible - key));
    block.sum_totals();
    write_results<V>(head, first, queries, s);
}

}  // namespace tqs::panel
