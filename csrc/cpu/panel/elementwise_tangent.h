// out = sum of tangents + sum of coefficients * tangents over a block: what a tangent of a whole chain comes to. One
// pass, a load and a fused multiply-add per term and one store.
#pragma once

#include <array>
#include <utility>

#include "cpu/panel/elementwise_code.h"

namespace tqs::panel {

inline constexpr int kMaxTerms = 8;  // of one pass; two pointers each already fill the integer registers

template <class T>
struct Terms {
    int units = 0, products = 0;
    const T* unit[kMaxElementwiseInputs + 1];
    const T* coefficient[kMaxElementwiseInputs];
    const T* tangent[kMaxElementwiseInputs];
};

template <class W, int units, int products>
[[gnu::noinline]] static void combine(const Terms<typename W::Element>& terms, int first_unit, int first_product,
                                      typename W::Element* out, std::int64_t count) {
    using T = typename W::Element;
    const T *unit[units + 1], *coefficient[products + 1], *tangent[products + 1];
    for (int k = 0; k < units; ++k) unit[k] = terms.unit[first_unit + k];
    for (int k = 0; k < products; ++k) {
        coefficient[k] = terms.coefficient[first_product + k];
        tangent[k] = terms.tangent[first_product + k];
    }
    for_vectors<W>(count, [&](std::int64_t i) {
        typename W::Vector sum = W::broadcast(T(0));
        if constexpr (units > 0) sum = W::load(unit[0] + i);
        for (int k = 1; k < units; ++k) sum += W::load(unit[k] + i);
        if constexpr (units == 0 && products > 0) sum = W::load(coefficient[0] + i) * W::load(tangent[0] + i);
        for (int k = units == 0 ? 1 : 0; k < products; ++k) {
            sum = W::multiply_add(W::load(coefficient[k] + i), W::load(tangent[k] + i), sum);
        }
        W::store(out + i, sum);
    });
}

template <class W>
using Combine = void (*)(const Terms<typename W::Element>&, int, int, typename W::Element*, std::int64_t);

// [units * (kMaxTerms + 1) + products], null where there are more than kMaxTerms.
template <class W, std::size_t... index>
static constexpr std::array<Combine<W>, sizeof...(index)> list_combines(std::index_sequence<index...>) {
    constexpr std::size_t width = kMaxTerms + 1;
    return {[]() -> Combine<W> {
        constexpr int units = static_cast<int>(index / width), products = static_cast<int>(index % width);
        if constexpr (units + products <= kMaxTerms) {
            return combine<W, units, products>;
        } else {
            return nullptr;
        }
    }()...};
}

// units + products <= kMaxTerms.
template <class W>
static Combine<W> find_combine(int units, int products) {
    static constexpr auto kCombines =
        list_combines<W>(std::make_index_sequence<static_cast<std::size_t>((kMaxTerms + 1) * (kMaxTerms + 1))>{});
    return kCombines[static_cast<std::size_t>(units * (kMaxTerms + 1) + products)];
}

// In passes of at most kMaxTerms terms; `partial` are two blocks for the sums between them. Units come first, each
// kind in order of the inputs.
template <class W>
static void combine_terms(Terms<typename W::Element>& terms, typename W::Element* out, std::int64_t count,
                          typename W::Element* const (&partial)[2]) {
    int unit = 0, product = 0;
    for (int pass = 0;; ++pass) {
        const int units = std::min(terms.units - unit, kMaxTerms);
        const int products = std::min(terms.products - product, kMaxTerms - units);
        const bool last = unit + units == terms.units && product + products == terms.products;
        typename W::Element* target = last ? out : partial[pass % 2];
        find_combine<W>(units, products)(terms, unit, product, target, count);
        if (last) return;
        // The sum so far takes the place of a unit that was added, or is a new one.
        unit += units > 0 ? units - 1 : 0;
        if (unit == terms.units) ++terms.units;
        terms.unit[unit] = target;
        product += products;
    }
}

}  // namespace tqs::panel
