// A few queries, too few to fill a vector: each by itself, its products with a key along the vector lanes. Every key
// and value is read once per block and lane of the rollout, so that a single query over many keys (a decoding step)
// moves at the speed of memory.
//
// Scratch (attention_head.h), Dp and Ep rounded up to whole vectors, R queries:
//   queries [lanes, R, Dp]  scaled, padded with 0        weights [R, kKeys]      maxima [R]
//   sums    [lanes, R, Ep]                               moved   [kKeys]         rescale [R]
//   totals  [lanes, R, kLanes] not summed across lanes   bias    [kKeys]         partial [kKeys, kLanes]
#pragma once

#include <type_traits>

#include "cpu/panel/attention_head.h"
#include "cpu/panel/attention_vector.h"

namespace tqs::panel {

template <class V>
struct RowBlock {
    using T = typename V::Element;
    using Vector = typename V::Vector;
    static constexpr int kKeyRows = 8, kValueVectors = 4;

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
    void scores(const Rows<T>& k, const T* q, const Rows<T>& dk, const T* q0, std::int64_t keys,
                const Finish& finish) const {
        for (std::int64_t key = 0; key < keys; key += kKeyRows) {
            dispatch_count<kKeyRows>(keys - key, [&](auto rows) {
                Vector sums[rows.value];
                for (Vector& sum : sums) sum = V::broadcast(T{0});
                if (k.data) add_dots(k.data + key * k.stride, k.stride, q, head.depth, sums);
                if (dk.data) add_dots(dk.data + key * dk.stride, dk.stride, q0, head.depth, sums);
                for (int r = 0; r < rows.value; ++r) V::store(s.partial + (key + r) * V::kLanes, sums[r]);
            });
        }
        for (std::int64_t key = 0; key < keys; key += V::kLanes) {
            Vector rows[V::kLanes];
            for (int r = 0; r < V::kLanes; ++r) rows[r] = V::load(s.partial + (key + r) * V::kLanes);
            finish(key, sum_across<V>(rows));
        }
    }

    // sums[0 ... vectors) += w v over the keys; even and odd keys apart, to have twice the independent chains.
    template <int vectors, bool partial>
    static void add_values(const T* v, std::int64_t stride, const T* w, std::int64_t keys, std::int64_t count,
                           Vector (&sums)[vectors]) {
        const auto load = [&](const T* at) {
            if constexpr (partial) return V::load_partial(at, count);
            return V::load_any(at);
        };
        Vector odd[vectors];
        for (Vector& sum : odd) sum = V::broadcast(T{0});
        std::int64_t key = 0;
        for (; key + 2 <= keys; key += 2) {
            const Vector w0 = V::broadcast(w[key]), w1 = V::broadcast(w[key + 1]);
            const T* at = v + key * stride;
            for (int j = 0; j < vectors; ++j) {
                sums[j] = V::multiply_add(load(at + j * V::kLanes), w0, sums[j]);
                odd[j] = V::multiply_add(load(at + stride + j * V::kLanes), w1, odd[j]);
            }
        }
        for (int j = 0; j < vectors; ++j) {
            if (key < keys) {
                sums[j] = V::multiply_add(load(v + key * stride + j * V::kLanes), V::broadcast(w[key]), sums[j]);
            }
            sums[j] += odd[j];
        }
    }

    // sums = rescale sums + v w + dv w0
    void values(const Rows<T>& v, const T* w, const Rows<T>& dv, const T* w0, std::int64_t keys, T rescale,
                T* sums) const {
        const auto tile = [&](std::int64_t e, auto vectors, auto partial) {
            Vector own[vectors.value];
            for (int j = 0; j < vectors.value; ++j) {
                own[j] = V::load(sums + e + j * V::kLanes) * V::broadcast(rescale);
            }
            const std::int64_t count = head.width - e;
            if (v.data) add_values<vectors.value, partial.value>(v.data + e, v.stride, w, keys, count, own);
            if (dv.data) add_values<vectors.value, partial.value>(dv.data + e, dv.stride, w0, keys, count, own);
            for (int j = 0; j < vectors.value; ++j) V::store(sums + e + j * V::kLanes, own[j]);
        };
        const std::int64_t whole = head.width / V::kLanes * V::kLanes;
        for (std::int64_t e = 0; e < whole; e += kValueVectors * V::kLanes) {
            dispatch_count<kValueVectors>((whole - e) / V::kLanes,
                                          [&](auto vectors) { tile(e, vectors, std::false_type{}); });
        }
        if (whole < head.width) tile(whole, std::integral_constant<int, 1>{}, std::true_type{});
    }

    // Keys [first_key, first_key + keys) of the mask of one query; 0 behind them.
    const T* copy_mask(const T* mask, std::int64_t query, std::int64_t first_key, std::int64_t keys) const {
        const T* source = mask + query * head.mask.row + first_key * head.mask.column;
        for (std::int64_t key = 0; key < keys; ++key) s.bias[key] = source[key * head.mask.column];
        std::fill(s.bias + keys, s.bias + round_up(keys, V::kLanes), T{0});
        return s.bias;
    }

    static Vector broadcast_sum(Vector lanes) {
        Vector rows[V::kLanes];
        for (Vector& row : rows) row = lanes;
        return sum_across<V>(rows);
    }

    // As ColumnBlock::weigh, of one query: scores [keys] in `weights`, -inf behind them.
    void weigh(T* weights, std::int64_t keys, std::int64_t query) const {
        constexpr T lowest = -std::numeric_limits<T>::infinity();
        T maximum = s.maxima[query];
        for (std::int64_t key = 0; key < keys; ++key) maximum = weights[key] > maximum ? weights[key] : maximum;
        const Vector before = V::broadcast(s.maxima[query]);
        s.maxima[query] = maximum;
        const Vector shift = V::broadcast(maximum == lowest ? T{0} : maximum);
        const Vector rescale = exp_of_negative<V>(before - shift);
        s.rescale[query] = rescale[0];
        T* totals = s.totals + query * V::kLanes;
        Vector total = V::load(totals) * rescale;
        for (std::int64_t key = 0; key < keys; key += V::kLanes) {
            const Vector weight = exp_of_negative<V>(V::load(weights + key) - shift);
            V::store(weights + key, weight);
            total += weight;
        }
        V::store(totals, total);
    }

    void run(std::int64_t first_key, std::int64_t block_keys) const {
        const Head<T>& h = head;
        const std::int64_t copy = kKeys * std::max(s.depth, s.width);
        const auto rows_of = [&](const LaneMatrix<T>& matrix, std::int64_t lane, std::int64_t width, int place) {
            const T* data = matrix.lane(lane);
            return Rows<T>(data ? data + first_key * matrix.row : nullptr, matrix.row, matrix.column, block_keys, width,
                           s.rows + place * copy);
        };
        const auto seen = [&](std::int64_t query) {
            return std::clamp<std::int64_t>(h.visible(first_query + query) - first_key, 0, block_keys);
        };
        const Rows<T> none(nullptr, 0, 1, 0, 0, nullptr);
        const Rows<T> k = rows_of(h.k, 0, h.depth, 0), v = rows_of(h.v, 0, h.width, 1);
        const T* mask = h.mask.lane(0);
        for (std::int64_t query = 0; query < queries; ++query) {
            const std::int64_t keys = seen(query);
            if (keys == 0) continue;
            T* weights = s.weights + query * kKeys;
            const T* bias = mask ? copy_mask(mask, first_query + query, first_key, keys) : nullptr;
            scores(k, s.queries + query * s.depth, none, nullptr, keys, [&](std::int64_t key, Vector sums) {
                V::store(weights + key, bias ? sums + V::load(bias + key) : sums);
            });
            std::fill(weights + keys, weights + round_up(keys, V::kLanes), -std::numeric_limits<T>::infinity());
            weigh(weights, keys, query);
            values(v, weights, none, nullptr, keys, s.rescale[query], s.sums + query * s.width);
        }
        for (std::int64_t lane = 1; lane < h.lanes; ++lane) {
            if (!h.moves(lane)) continue;
            const bool moves = h.scores_move(lane);
            const Rows<T> dk = rows_of(h.k, lane, h.depth, 2), dv = rows_of(h.v, lane, h.width, 3);
            const T* dmask = h.mask.lane(lane);
            for (std::int64_t query = 0; query < queries; ++query) {
                const std::int64_t keys = seen(query), row = lane * queries + query;
                if (keys == 0) continue;
                const T* weights = s.weights + query * kKeys;
                if (moves) {
                    const T* bias = dmask ? copy_mask(dmask, first_query + query, first_key, keys) : nullptr;
                    T* totals = s.totals + row * V::kLanes;
                    Vector total = V::load(totals) * V::broadcast(s.rescale[query]);
                    scores(h.q.lane(lane) ? k : none, s.queries + row * s.depth, dk, s.queries + query * s.depth, keys,
                           [&](std::int64_t key, Vector sums) {
                               const Vector weight = V::load(weights + key), slope = bias ? sums + V::load(bias + key) : sums;
                               // A weight of 0 may stand behind the last key, where the slope is rubbish.
                               const Vector zero = V::broadcast(T{0});
                               const Vector moved = weight == zero ? zero : weight * slope;
                               V::store(s.moved + key, moved);
                               total += moved;
                           });
                    V::store(totals, total);
                }
                values(moves ? v : none, s.moved, dv, weights, keys, s.rescale[query], s.sums + row * s.width);
            }
        }
    }

    // out = sums / totals of lane 0; its tangent (dsums - dtotal out) / total. Without visible keys, 0.
    void finish() const {
        for (std::int64_t query = 0; query < queries; ++query) {
            const T total = broadcast_sum(V::load(s.totals + query * V::kLanes))[0];
            const T inverse = total == T{0} ? T{0} : T{1} / total;
            T* primal = s.sums + query * s.width;
            for (std::int64_t lane = 0; lane < head.lanes; ++lane) {
                const std::int64_t row = lane * queries + query;
                T* out = head.out.lane(lane) + (first_query + query) * head.out.row;
                const T* sums = s.sums + row * s.width;
                const bool moves = lane == 0 || head.moves(lane);
                const Vector drift = V::broadcast(broadcast_sum(V::load(s.totals + row * V::kLanes))[0]);
                for (std::int64_t e = 0; e < head.width; e += V::kLanes) {
                    Vector result = V::broadcast(T{0});
                    if (lane == 0) {
                        result = V::load(sums + e) * V::broadcast(inverse);
                        V::store(primal + e, result);
                    } else if (moves) {
                        result = (V::load(sums + e) - drift * V::load(primal + e)) * V::broadcast(inverse);
                    }
                    V::store_partial(out + e, result, head.width - e);
                }
            }
        }
    }
};

// Queries [first, end), at most kBlock.
template <class V>
static void attend_rows(const Head<typename V::Element>& head, std::int64_t first, std::int64_t end,
                        const AttentionScratch<V>& s) {
    using T = typename V::Element;
    const std::int64_t queries = end - first;
    for (std::int64_t lane = 0; lane < head.lanes; ++lane) {
        const T* q = head.q.lane(lane);
        for (std::int64_t query = 0; q && query < queries; ++query) {
            T* packed = s.queries + (lane * queries + query) * s.depth;
            for (std::int64_t d = 0; d < s.depth; ++d) {
                packed[d] = d < head.depth ? head.scale * q[(first + query) * head.q.row + d * head.q.column] : T{0};
            }
        }
    }
    std::fill_n(s.sums, head.lanes * queries * s.width, T{0});
    std::fill_n(s.totals, head.lanes * queries * V::kLanes, T{0});
    std::fill_n(s.maxima, queries, -std::numeric_limits<T>::infinity());
    const RowBlock<V> block{head, s, first, queries};
    const std::int64_t visible = head.visible(end - 1);
    for (std::int64_t key = 0; key < visible; key += kKeys) block.run(key, std::min(kKeys, visible - key));
    block.finish();
}

}  // namespace tqs::panel
