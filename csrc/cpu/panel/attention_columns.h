// A block of queries, one per vector lane: scores, weights and sums are held transposed,
//
//     scores  [key, query]   +=  k[key, d]  broadcast  *  q [d, query]        (tangent: k dq + dk q)
//     sums    [e, query]     +=  v[key, e]  broadcast  *  w [key, query]      (tangent: v (w ds) + dv w)
//
// so that k, v and their tangents are read where they lie, the softmax has no sum across lanes, and every element is
// one chain of multiply-adds whatever its place. Only q and the result are transposed, once per block of queries.
// Registers: kRows broadcast operands against 1 ... kColumns vectors of queries.
#pragma once

#include <type_traits>

#include "cpu/panel/attention_head.h"
#include "cpu/panel/attention_vector.h"

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
        if (column != 1) {
            for (std::int64_t i = 0; i < count; ++i) {
                for (std::int64_t lane = 0; lane < V::kLanes; ++lane) {
                    out[i * B + first + lane] = lane < live ? factor * at[lane * row + i * column] : T{0};
                }
            }
            continue;
        }
        for (std::int64_t i = 0; i < count; i += V::kLanes) {
            typename V::Vector block[V::kLanes];
            for (std::int64_t lane = 0; lane < V::kLanes; ++lane) {
                block[lane] = lane < live ? V::load_partial(at + lane * row + i, count - i) : V::broadcast(T{0});
            }
            transpose<V>(block);
            const std::int64_t most = std::min<std::int64_t>(V::kLanes, count - i);
            for (std::int64_t j = 0; j < most; ++j) {
                V::store(out + (i + j) * B + first, block[j] * V::broadcast(factor));
            }
        }
    }
}

// sums[r][c] += sum over step of a[step * a_step + r * a_row] b[step, c], in order of `step`.
template <class V, int rows, int columns>
[[gnu::always_inline]] static inline void add_products(const typename V::Element* a, std::int64_t a_row,
                                                       std::int64_t a_step, const typename V::Element* b,
                                                       std::int64_t steps, typename V::Vector (&sums)[rows][columns]) {
    const typename V::Element* at[rows];
    for (int r = 0; r < rows; ++r) at[r] = a + r * a_row;
    for (std::int64_t step = 0; step < steps; ++step) {
        typename V::Vector vectors[columns];
        for (int c = 0; c < columns; ++c) vectors[c] = V::load(b + step * AttentionScratch<V>::kBlock + c * V::kLanes);
        for (int r = 0; r < rows; ++r) {
            const typename V::Vector value = V::broadcast(at[r][step * a_step]);
            for (int c = 0; c < columns; ++c) sums[r][c] = V::multiply_add(value, vectors[c], sums[r][c]);
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

    // finish(key, sums) with sums[c] = k q + dk q0 for each key; null k or dk add nothing.
    template <class Finish>
    void scores(const Rows<T>& k, const T* q, const Rows<T>& dk, const T* q0, const Finish& finish) const {
        for (std::int64_t key = 0; key < keys; key += V::kRows) {
            dispatch_count<V::kRows>(keys - key, [&](auto rows) {
                Vector sums[rows.value][columns];
                for (auto& row : sums) {
                    for (auto& sum : row) sum = V::broadcast(T{0});
                }
                if (k.data) add_products<V, rows.value>(k.data + key * k.stride, k.stride, 1, q, head.depth, sums);
                if (dk.data) add_products<V, rows.value>(dk.data + key * dk.stride, dk.stride, 1, q0, head.depth, sums);
                for (int r = 0; r < rows.value; ++r) finish(key + r, sums[r]);
            });
        }
    }

    // sums = rescale sums + v w + dv w0
    void values(const Rows<T>& v, const T* w, const Rows<T>& dv, const T* w0, T* sums) const {
        for (std::int64_t e = 0; e < head.width; e += V::kRows) {
            dispatch_count<V::kRows>(head.width - e, [&](auto rows) {
                Vector tile[rows.value][columns];
                for (int c = 0; c < columns; ++c) {
                    const Vector factor = V::load(s.rescale + c * V::kLanes);
                    for (int r = 0; r < rows.value; ++r) tile[r][c] = factor * V::load(sums + (e + r) * B + c * V::kLanes);
                }
                if (v.data) add_products<V, rows.value>(v.data + e, 1, v.stride, w, keys, tile);
                if (dv.data) add_products<V, rows.value>(dv.data + e, 1, dv.stride, w0, keys, tile);
                for (int r = 0; r < rows.value; ++r) {
                    for (int c = 0; c < columns; ++c) V::store(sums + (e + r) * B + c * V::kLanes, tile[r][c]);
                }
            });
        }
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
                    // Key first_key + key is hidden from lanes below this.
                    const std::int64_t seen_from =
                        first_key + key - head.causal_offset - first_query - c * V::kLanes;
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

    // moved = weights * (k dq + dk q + dmask), and its total over keys.
    void move(const Rows<T>& k, const T* dq, const Rows<T>& dk, const T* q, bool masked, T* totals) const {
        Vector total[columns];
        for (int c = 0; c < columns; ++c) {
            total[c] = V::load(totals + c * V::kLanes) * V::load(s.rescale + c * V::kLanes);
        }
        scores(k, dq, dk, q, [&](std::int64_t key, const Vector(&sums)[columns]) {
            for (int c = 0; c < columns; ++c) {
                const std::int64_t at = key * B + c * V::kLanes;
                const Vector slope = masked ? sums[c] + V::load(s.bias + at) : sums[c];
                const Vector moved = V::load(s.weights + at) * slope;
                V::store(s.moved + at, moved);
                total[c] += moved;
            }
        });
        for (int c = 0; c < columns; ++c) V::store(totals + c * V::kLanes, total[c]);
    }

    void run() const {
        const Head<T>& h = head;
        const std::int64_t copy = kKeys * std::max(s.depth, s.width);
        const auto rows_of = [&](const LaneMatrix<T>& matrix, std::int64_t lane, std::int64_t width, int place) {
            const T* data = matrix.lane(lane);
            return Rows<T>(data ? data + first_key * matrix.row : nullptr, matrix.row, matrix.column, keys, width,
                           s.rows + place * copy);
        };
        const Rows<T> none(nullptr, 0, 1, 0, 0, nullptr);
        const Rows<T> k = rows_of(h.k, 0, h.depth, 0), v = rows_of(h.v, 0, h.width, 1);
        const T* mask = h.mask.lane(0);
        if (mask) pack_mask(mask);
        scores(k, s.queries, none, nullptr, [&](std::int64_t key, const Vector(&sums)[columns]) {
            for (int c = 0; c < columns; ++c) V::store(s.weights + key * B + c * V::kLanes, sums[c]);
        });
        weigh(mask != nullptr);
        values(v, s.weights, none, nullptr, s.sums);
        for (std::int64_t lane = 1; lane < h.lanes; ++lane) {
            if (!h.moves(lane)) continue;
            const bool moves = h.scores_move(lane);
            const Rows<T> dv = rows_of(h.v, lane, h.width, 3);
            if (moves) {
                const T* dmask = h.mask.lane(lane);
                if (dmask) pack_mask(dmask);
                move(h.q.lane(lane) ? k : none, s.queries + lane * s.depth * B, rows_of(h.k, lane, h.depth, 2),
                     s.queries, dmask != nullptr, s.totals + lane * B);
            }
            values(moves ? v : none, s.moved, dv, s.weights, s.sums + lane * s.width * B);
        }
    }
};

// out = sums / totals of lane 0; its tangent (dsums - dtotal out) / total. Without visible keys, 0.
template <class V>
static void finish_columns(const Head<typename V::Element>& head, std::int64_t first, std::int64_t queries,
                           const AttentionScratch<V>& s) {
    using T = typename V::Element;
    using Vector = typename V::Vector;
    constexpr std::int64_t B = AttentionScratch<V>::kBlock;
    const Vector zero = V::broadcast(T{0});
    for (std::int64_t c = 0; c < queries; c += V::kLanes) {
        const std::int64_t live = std::min<std::int64_t>(V::kLanes, queries - c);
        const Vector total = V::load(s.totals + c);
        const Vector inverse = total == zero ? zero : V::broadcast(T{1}) / total;
        for (std::int64_t lane = 0; lane < head.lanes; ++lane) {
            T* sums = s.sums + lane * s.width * B + c;
            T* out = head.out.lane(lane) + (first + c) * head.out.row;
            const bool moves = lane == 0 || head.moves(lane);
            const Vector drift = V::load(s.totals + lane * B + c);
            for (std::int64_t e = 0; e < head.width; e += V::kLanes) {
                const std::int64_t most = std::min<std::int64_t>(V::kLanes, head.width - e);
                Vector block[V::kLanes];
                for (std::int64_t j = 0; j < V::kLanes; ++j) {
                    block[j] = zero;
                    if (j >= most || !moves) continue;
                    const Vector sum = V::load(sums + (e + j) * B);
                    if (lane == 0) {
                        block[j] = sum * inverse;
                        V::store(sums + (e + j) * B, block[j]);
                    } else {
                        block[j] = (sum - drift * V::load(s.sums + (e + j) * B + c)) * inverse;
                    }
                }
                transpose<V>(block);
                for (std::int64_t j = 0; j < live; ++j) V::store_partial(out + j * head.out.row + e, block[j], most);
            }
        }
    }
}

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
    std::fill_n(s.sums, head.lanes * s.width * B, T{0});
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
        for (T** array : {&live.queries, &live.sums, &live.totals, &live.weights, &live.moved, &live.bias, &live.maxima,
                          &live.rescale}) {
            *array += skipped;
        }
        dispatch_count<V::kColumns>(vectors - vector, [&](auto columns) {
            ColumnBlock<V, columns.value>{head, live, first + skipped, queries - skipped, key, keys}.run();
        });
        key += keys;
    }
    finish_columns<V>(head, first, queries, s);
}

}  // namespace tqs::panel
