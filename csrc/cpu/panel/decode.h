// Codes of the portable form to float values, one vector at a time. `V` is the Vector of an ISA folder; it lives in an
// unnamed namespace there, which gives every instantiation internal linkage.
//
// A vector never straddles a group: kLanes divides 32, group sizes are multiples of 32, and kLanes codes are whole
// bytes.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "quant/format.h"

namespace tqs::panel {

// Eight codes of at most 4 bits as one little-endian word; reads only the bytes that hold the first `count` of them.
template <int bits>
static inline std::uint32_t code_word(const std::uint8_t* bytes, std::int64_t count) {
    std::uint32_t word = 0;
    if (count >= 8) {
        std::memcpy(&word, bytes, bits);
    } else if (count > 0) {
        std::memcpy(&word, bytes, static_cast<std::size_t>((count * bits + 7) / 8));
    }
    return word;
}

template <class V>
struct Group {
    typename V::Float scale;
    typename V::Float zero;
};

template <class V>
static inline Group<V> group_at(const PackedView& weight, std::int64_t row, std::int64_t group) {
    return {V::broadcast(bfloat16_to_float(weight.scales[row * group_count(weight) + group])),
            V::broadcast(static_cast<float>(zero_point(weight, row, group)))};
}

// Values [k, k + kLanes) of a row, k a multiple of kLanes; those at or beyond K are unspecified but finite.
template <class V, int bits>
static inline typename V::Float decode(const PackedView& weight, std::int64_t row, std::int64_t k, Group<V> group) {
    const std::uint8_t* bytes = weight.codes + row * row_bytes(weight) + k * bits / 8;
    return V::mul(group.scale, V::sub(V::template codes<bits>(bytes, weight.columns - k), group.zero));
}

}  // namespace tqs::panel
