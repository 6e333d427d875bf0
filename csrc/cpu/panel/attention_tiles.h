// The two products of attention in registers: tiles of `rows` values, each broadcast, against `columns` vectors.
#pragma once

#include "cpu/panel/attention_head.h"
#include "cpu/panel/attention_vector.h"

namespace tqs::panel {

// Loads `columns` vectors at `at`; where `partial`, the last has only `count` elements.
template <class V, bool partial, int columns>
[[gnu::always_inline]] static inline void load_vectors(const typename V::Element* at, std::int64_t count,
                                                       typename V::Vector (&vectors)[columns]) {
    unroll<columns>([&](auto c) __attribute__((always_inline)) {
        if constexpr (partial && c.value == columns - 1) {
            vectors[c] = V::load_partial(at + c * V::kLanes, count);
        } else {
            vectors[c] = V::load_any(at + c * V::kLanes);
        }
    });
}

// sums[r][c] += sum over step of a[r, step] b[step, c], in order of `step`. Where `adjacent`, a's rows are neighbours
// in memory and its steps a_stride apart; else the other way round. Calls ahead(step) every cache line of steps.
template <class V, bool adjacent, bool partial, int rows, int columns, class Ahead>
[[gnu::always_inline]] static inline void add_products(const typename V::Element* a, std::int64_t a_stride,
                                                       const typename V::Element* b, std::int64_t b_stride,
                                                       std::int64_t steps, std::int64_t count, const Ahead& ahead,
                                                       typename V::Vector (&sums)[rows][columns]) {
    constexpr std::int64_t line = 64 / sizeof(typename V::Element);
    const typename V::Element* at[rows];
    unroll<rows>([&](auto r) __attribute__((always_inline)) { at[r] = a + r * a_stride; });
    for (std::int64_t step = 0; step < steps;) {
        ahead(step);
        for (const std::int64_t end = std::min(step + line, steps); step < end; ++step) {
            typename V::Vector vectors[columns];
            load_vectors<V, partial>(b, count, vectors);
            unroll<rows>([&](auto r) __attribute__((always_inline)) {
                const typename V::Vector value = V::broadcast(adjacent ? a[r] : at[r][step]);
                unroll<columns>([&](auto c) __attribute__((always_inline)) {
                    sums[r][c] = V::multiply_add(value, vectors[c], sums[r][c]);
                });
            });
            if constexpr (adjacent) a += a_stride;
            b += b_stride;
        }
    }
}

// The tiles are never inlined: the registers they need are all there are.

// finish(key, c, sum) with sum = (k q + dk q0) of keys key ... key + rows and vectors c of transposed queries [D, B]; k
// or dk that are not there add nothing. Meanwhile asks for the same rows of dk and dv: tangents of keys and values are
// read once per block of queries and mostly come from far.
template <class V, int rows, int columns, class Finish>
[[gnu::noinline]] static void score_tile(Rows<typename V::Element> k, const typename V::Element* q,
                                         Rows<typename V::Element> dk, const typename V::Element* q0,
                                         Rows<typename V::Element> dv, std::int64_t key, std::int64_t depth,
                                         std::int64_t width, const Finish& finish) {
    constexpr std::int64_t B = AttentionScratch<V>::kBlock;
    typename V::Vector sums[rows][columns];
    unroll<rows * columns>([&](auto i)
                               __attribute__((always_inline)) { sums[i / columns][i % columns] = V::broadcast(0); });
    const typename V::Element* dk_rows = dk.data ? dk.data + key * dk.stride : nullptr;
    const typename V::Element* dv_rows = dv.data ? dv.data + key * dv.stride : nullptr;
    const auto ask = [&](std::int64_t d) __attribute__((always_inline)) {
        unroll<rows>([&](auto r) __attribute__((always_inline)) {
            if (dk.data) __builtin_prefetch(dk_rows + r * dk.stride + d);
            if (dv.data && d < width) __builtin_prefetch(dv_rows + r * dv.stride + d);
        });
    };
    const auto nothing = [](std::int64_t) {
    };
    if (k.data) add_products<V, false, false>(k.data + key * k.stride, k.stride, q, B, depth, 0, ask, sums);
    if (dk.data) add_products<V, false, false>(dk_rows, dk.stride, q0, B, depth, 0, nothing, sums);
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
        unroll<columns>([&](auto c) __attribute__((always_inline)) { finish(key + r, c, sums[r][c]); });
    });
}

// sums = rescale sums + w v + w0 dv for `rows` queries and `columns` vectors of values, the last of `count` elements
// where `partial`. w, w0: [key, B] where `transposed` (at the first of the queries), else [B, kKeys].
template <class V, bool transposed, bool partial, int rows, int columns>
[[gnu::noinline]] static void value_tile(const typename V::Element* w, Rows<typename V::Element> v,
                                         const typename V::Element* w0, Rows<typename V::Element> dv, std::int64_t keys,
                                         std::int64_t count, const typename V::Element* rescale,
                                         typename V::Element* sums, std::int64_t stride) {
    constexpr std::int64_t w_stride = transposed ? AttentionScratch<V>::kBlock : kKeys;
    typename V::Vector tile[rows][columns];
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
        const typename V::Vector factor = V::broadcast(rescale[r]);
        unroll<columns>([&](auto c) __attribute__((always_inline)) {
            tile[r][c] = factor * V::load(sums + r * stride + c * V::kLanes);
        });
    });
    const auto nothing = [](std::int64_t) {
    };
    if (v.data) add_products<V, transposed, partial>(w, w_stride, v.data, v.stride, keys, count, nothing, tile);
    if (dv.data) add_products<V, transposed, partial>(w0, w_stride, dv.data, dv.stride, keys, count, nothing, tile);
    unroll<rows>([&](auto r) __attribute__((always_inline)) {
        unroll<columns>(
            [&](auto c) __attribute__((always_inline)) { V::store(sums + r * stride + c * V::kLanes, tile[r][c]); });
    });
}

// sums [queries, Ep] = rescale sums + w v + w0 dv. Weights of keys from seen(query) on are 0 and not read.
template <class V, bool transposed, class Seen>
static void add_values(const typename V::Element* w, Rows<typename V::Element> v, const typename V::Element* w0,
                       Rows<typename V::Element> dv, std::int64_t queries, std::int64_t width, const Seen& seen,
                       const AttentionScratch<V>& s, typename V::Element* sums) {
    using T = typename V::Element;
    const auto tiles = [&](std::int64_t e, auto columns, auto partial) {
        const auto from = [&](Rows<T> rows) {
            return Rows<T>{rows.data ? rows.data + e : nullptr, rows.stride};
        };
        for_tiles<V::kValueSums / columns.value>(queries, [&](std::int64_t query, auto rows) {
            const std::int64_t at = transposed ? query : query * kKeys;
            value_tile<V, transposed, partial.value, rows.value, columns.value>(
                w + at, from(v), w0 + at, from(dv), seen(query + rows.value - 1), width - e, s.rescale + query,
                sums + query * s.width + e, s.width);
        });
    };
    const std::int64_t whole = width / V::kLanes;
    for_tiles<V::kValueColumns>(
        whole, [&](std::int64_t vector, auto columns) { tiles(vector * V::kLanes, columns, std::false_type{}); });
    if (whole * V::kLanes < width) tiles(whole * V::kLanes, std::integral_constant<int, 1>{}, std::true_type{});
}

// out = sums / totals of lane 0; its tangent (dsums - dtotals out) / totals. Without visible keys, 0.
template <class V>
static void write_results(const Head<typename V::Element>& head, std::int64_t first, std::int64_t queries,
                          const AttentionScratch<V>& s) {
    using T = typename V::Element;
    using Vector = typename V::Vector;
    constexpr std::int64_t B = AttentionScratch<V>::kBlock;
    for (std::int64_t lane = 0; lane < head.lanes; ++lane) {
        const bool moves = lane == 0 || head.moves(lane);
        T* out = head.out.lane(lane) + first * head.out.row;
        for (std::int64_t query = 0; query < queries; ++query, out += head.out.row) {
            const T total = s.totals[query];
            const Vector inverse = V::broadcast(total == T{0} ? T{0} : T{1} / total);
            const Vector drift = V::broadcast(s.totals[lane * B + query]);
            T *primal = s.sums + query * s.width, *sums = primal + lane * B * s.width;
            for (std::int64_t e = 0; e < head.width; e += V::kLanes) {
                Vector result = V::broadcast(T{0});
                if (lane == 0) {
                    result = V::load(sums + e) * inverse;
                    V::store(primal + e, result);
                } else if (moves) {
                    result = (V::load(sums + e) - drift * V::load(primal + e)) * inverse;
                }
                V::store_partial(out + e, result, head.width - e);
            }
        }
    }
}

}  // namespace tqs::panel
