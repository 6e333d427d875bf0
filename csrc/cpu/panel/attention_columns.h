// A block of queries, one per vector lane: scores and weights are held transposed,
//
//     scores  [key, query]  +=  k [key, d] broadcast      *  q [d, query]       (tangent: k dq + dk q)
//     sums    [query, e]    +=  w [key, query] broadcast  *  v [key, e]         (tangent: (w ds) v + w dv)
//
// so that k, v and their tangents are read where they lie, the softmax has no sum across lanes, every element is one
// chain of multiply-adds whatever its place, and only q has to be transposed, once per block of queries.
#pragma once

#include "cpu/panel/attention_tiles.h"

namespace tqs::panel {

// out [count, B] = factor * source[query, i] for the queries [0, queries); other lanes of the vectors touched are 0.
template <class V>
static void pack_transposed(const typename V::Element* source, std::int64_t row, std::int64_t column,
                            std::int64_t queries, std::int64_t count, typename V::Element factor,
                            typename V::Element* out) {
    using T = typename V::Element;
    constexpr std::int64_t B = AttentionScratch<V>::kBlock;
    for (std::int64_t first = 0; first < queries; first += V::kLanes) {
        const std::int64_t live = std::min<std::int64_t>(V::kLanes, queries - first);
        const T* at = source + first * row;
        std::int64_t done = 0;
        for (; column == 1 && live == V::kLanes && done + V::kLanes <= count; done += V::kLanes) {
            typename V::Vector block[V::kLanes];
            unroll<V::kLanes>([&](auto i)
                                  __attribute__((always_inline)) { block[i] = V::load_any(at + i * row + done); });
            transpose<V>(block);
            unroll<V::kLanes>([&](auto i) __attribute__((always_inline)) {
                V::store(out + (done + i) * B + first, block[i] * V::broadcast(factor));
            });
        }
        for (; done < count; ++done) {
            for (std::int64_t lane = 0; lane < V::kLanes; ++lane) {
                out[done * B + first + lane] = lane < live ? factor * at[lane * row + done * column] : T{0};
            }
        }
    }
}

// The vectors [0, columns) of queries that see some of a block of keys. `s` points at the first of these vectors.
template <class V, int columns>
struct ColumnBlock {
    using T = typename V::Element;
    using Vector = typename V::Vector;
    static constexpr std::int64_t B = AttentionScratch<V>::kBlock;

    const Head<T>& head;
    const AttentionScratch<V>& s;
    std::int64_t first_query, queries;  // of the vectors; the last may be padded
    std::int64_t first_key, keys;

    template <class Finish>
    void scores(Rows<T> k, const T* q, Rows<T> dk, const T* q0, Rows<T> dv, const Finish& finish) const {
        for_tiles<V::kRows>(keys, [&](std::int64_t key, auto rows) {
            score_tile<V, rows.value, columns>(k, q, dk, q0, dv, key, head.depth, head.width, finish);
        });
    }

    // The mask (or its tangent) of this block into s.bias.
    void pack_mask(const T* mask) const {
        const LaneMatrix<T>& m = head.mask;
        pack_transposed<V>(mask + first_query * m.row + first_key * m.column, m.row, m.column, queries, keys, T{1},
                           s.bias);
    }

    // Scores in s.weights become exp(score - maximum), maximum over all keys so far; what was summed before is to be
    // multiplied by s.rescale. A query that has seen no key keeps the maximum -inf and gets weights of 0.
    void weigh(bool masked) const {
        const Vector hidden = V::broadcast(-std::numeric_limits<T>::infinity());
        Vector lane_number = V::broadcast(T{0});
        for (int lane = 0; lane < V::kLanes; ++lane) lane_number[lane] = static_cast<T>(lane);
        for (int c = 0; c < columns; ++c) {
            T* column = s.weights + c * V::kLanes;
            const Vector before = V::load(s.maxima + c * V::kLanes);
            Vector maximum = before;
            for (std::int64_t key = 0; key < keys; ++key) {
                Vector score = V::load(column + key * B);
                if (masked) score += V::load(s.bias + key * B + c * V::kLanes);
                if (head.causal) {
                    // Key first_key + key is hidden from the lanes below this.
                    const std::int64_t seen_from = first_key + key - head.causal_offset - first_query - c * V::kLanes;
                    const T limit = static_cast<T>(std::clamp<std::int64_t>(seen_from, 0, V::kLanes));
                    score = lane_number < V::broadcast(limit) ? hidden : score;
                }
                V::store(column + key * B, score);
                maximum = largest<V>(score, maximum);
            }
            V::store(s.maxima + c * V::kLanes, maximum);
            maximum = maximum == hidden ? V::broadcast(T{0}) : maximum;
            const Vector rescale = exp_of_negative<V>(before - maximum);
            V::store(s.rescale + c * V::kLanes, rescale);
            Vector total = V::load(s.totals + c * V::kLanes) * rescale;
            for (std::int64_t key = 0; key < keys; ++key) {
                const Vector weight = exp_of_negative<V>(V::load(column + key * B) - maximum);
                V::store(column + key * B, weight);
                total += weight;
            }
            V::store(s.totals + c * V::kLanes, total);
        }
    }

    // moved = weights * (k dq + dk q + dmask), and its total over keys. A weight of 0 is 0 whatever its slope.
    void move(Rows<T> k, const T* dq, Rows<T> dk, const T* q, Rows<T> dv, bool masked, T* totals) const {
        const Vector zero = V::broadcast(T{0});
        Vector total[columns];
        for (int c = 0; c < columns; ++c) {
            total[c] = V::load(totals + c * V::kLanes) * V::load(s.rescale + c * V::kLanes);
        }
        scores(k, dq, dk, q, dv, [&](std::int64_t key, int c, Vector slope) __attribute__((always_inline)) {
            const std::int64_t at = key * B + c * V::kLanes;
            if (masked) slope += V::load(s.bias + at);
            const Vector weight = V::load(s.weights + at);
            const Vector moved = weight == zero ? zero : weight * slope;
            V::store(s.moved + at, moved);
            total[c] += moved;
        });
        for (int c = 0; c < columns; ++c) V::store(totals + c * V::kLanes, total[c]);
    }

    void run() const {
        const Head<T>& h = head;
        const Rows<T> k = s.adjacent(h.k, 0, first_key, keys, h.depth, 0);
        const Rows<T> v = s.adjacent(h.v, 0, first_key, keys, h.width, 1);
        const T* mask = h.mask.lane(0);
        const auto seen = [&](std::int64_t query) {
            return std::clamp<std::int64_t>(h.visible(first_query + query) - first_key, 0, keys);
        };
        if (mask) pack_mask(mask);
        scores(k, s.queries, {}, nullptr, v, [&](std::int64_t key, int c, Vector sum) __attribute__((always_inline)) {
            V::store(s.weights + key * B + c * V::kLanes, sum);
        });
        weigh(mask != nullptr);
        add_values<V, true>(s.weights, v, s.weights, {}, queries, h.width, seen, s, s.sums);
        for (std::int64_t lane = 1; lane < h.lanes; ++lane) {
            if (!h.moves(lane)) continue;
            const bool moves = h.scores_move(lane);
            const Rows<T> dv = s.adjacent(h.v, lane, first_key, keys, h.width, 3);
            if (moves) {
                const Rows<T> dk = s.adjacent(h.k, lane, first_key, keys, h.depth, 2);
                const T* dmask = h.mask.lane(lane);
                if (dmask) pack_mask(dmask);
                move(h.q.lane(lane) ? k : Rows<T>{}, s.queries + lane * s.depth * B, dk, s.queries, dv,
                     dmask != nullptr, s.totals + lane * B);
            }
            add_values<V, true>(s.moved, moves ? v : Rows<T>{}, s.weights, dv, queries, h.width, seen, s,
                                s.sums + lane * B * s.width);
        }
    }
};

// Queries [first, end), at most kColumns vectors.
template <class V>
static void attend_columns(const Head<typename V::Element>& head, std::int64_t first, std::int64_t end,
                           const AttentionScratch<V>& s) {
    using T = typename V::Element;
    constexpr std::int64_t B = AttentionScratch<V>::kBlock;
    const std::int64_t queries = end - first, vectors = (queries + V::kLanes - 1) / V::kLanes;
    for (std::int64_t lane = 0; lane < head.lanes; ++lane) {
        const T* q = head.q.lane(lane);
        if (!q) continue;
        pack_transposed<V>(q + first * head.q.row, head.q.row, head.q.column, queries, head.depth, head.scale,
                           s.queries + lane * s.depth * B);
    }
    std::fill_n(s.sums, head.lanes * B * s.width, T{0});
    std::fill_n(s.totals, head.lanes * B, T{0});
    std::fill_n(s.maxima, B, -std::numeric_limits<T>::infinity());

    // A block of keys ends where a vector of queries stops seeing any, and the next leaves that vector out.
    const auto visible = [&](std::int64_t vector) {
        return head.visible(std::min(end, first + (vector + 1) * V::kLanes) - 1);
    };
    std::int64_t vector = 0;
    for (std::int64_t key = 0; key < visible(vectors - 1);) {
        while (visible(vector) <= key) ++vector;
        const std::int64_t keys = std::min(kKeys, visible(vector) - key), skipped = vector * V::kLanes;
        AttentionScratch<V> live = s;
        for (T** array :
             {&live.queries, &live.weights, &live.moved, &live.bias, &live.totals, &live.maxima, &live.rescale}) {
            *array += skipped;
        }
        live.sums += skipped * s.width;
        if (vectors - vector == 1) {
            ColumnBlock<V, 1>{head, live, first + skipped, queries - skipped, key, keys}.run();
        } else {
            ColumnBlock<V, 2>{head, live, first + skipped, queries - skipped, key, keys}.run();
        }
        key += keys;
    }
    write_results<V>(head, first, queries, s);
}

}  // namespace tqs::panel
