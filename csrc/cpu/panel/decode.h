// Packed codes to float values, one vector or one panel at a time. `V` is the Vector of an ISA folder; it lives in an
// unnamed namespace there, which gives every instantiation internal linkage.
//
// A vector never straddles a group: kLanes divides 32, group sizes are multiples of 32, and kLanes codes are whole
// bytes.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "cpu/panel/layout.h"

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

// The decoded panel (layout.h) of rows [first, first + kPanel) from the portable form.
template <class V, int bits>
static void decode_panel(const PackedView& weight, std::int64_t first, float* out) {
    const std::int64_t width = group_width(weight);
    for (std::int64_t j = 0; j < V::kPanel; j += V::kLanes) {
        for (std::int64_t k = 0; k < weight.columns; k += V::kLanes) {
            typename V::Float tile[V::kLanes];
            for (int i = 0; i < V::kLanes; ++i) {
                const std::int64_t row = first + j + i;
                tile[i] = row < weight.rows ? decode<V, bits>(weight, row, k, group_at<V>(weight, row, k / width))
                                            : V::broadcast(0.0f);
            }
            V::transpose(tile);
            for (int i = 0; i < V::kLanes; ++i) V::store(out + (k + i) * V::kPanel + j, tile[i]);
        }
    }
}

// The same from one prepacked panel.
template <class V, int bits>
static void decode_prepacked(const PackedView& weight, const std::uint8_t* panel, float* out) {
    const std::int64_t groups = group_count(weight);
    const std::int64_t width = group_width(weight);
    const float* scales = reinterpret_cast<const float*>(panel);
    const float* zeros = scales + groups * V::kPanel;
    const std::uint8_t* codes = panel + groups * V::kPanel * 2 * static_cast<std::int64_t>(sizeof(float));
    for (std::int64_t group = 0; group < groups; ++group) {
        typename V::Float scale[2], zero[2];
        for (int half = 0; half < 2; ++half) {
            scale[half] = V::load(scales + group * V::kPanel + half * V::kLanes);
            zero[half] = V::load(zeros + group * V::kPanel + half * V::kLanes);
        }
        const std::int64_t end = std::min((group + 1) * width, weight.columns);
        for (std::int64_t k = group * width; k < end; ++k) {
            typename V::Float u[2];
            V::template unpack<bits>(codes + k * code_row_bytes(bits, V::kPanel), u);
            for (int half = 0; half < 2; ++half) {
                V::store(out + k * V::kPanel + half * V::kLanes, V::mul(scale[half], V::sub(u[half], zero[half])));
            }
        }
    }
}

}  // namespace tqs::panel
