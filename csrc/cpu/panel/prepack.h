// Writes the prepacked layout (layout.h): words of the portable bitstream, kLanes rows by kLanes words transposed at a
// time.
#pragma once

#include <cstring>

#include "cpu/panel/layout.h"

namespace tqs::panel {

// Eight codes of 3 bits to fields of 4.
static inline std::uint32_t spread_threes(std::uint32_t codes) {
    codes = (codes & 0x000FFF) | (codes & 0xFFF000) << 4;
    codes = (codes & 0x003F003F) | (codes & 0x0FC00FC0) << 2;
    return (codes & 0x07070707) | (codes & 0x38383838) << 1;
}

// Words [begin, end) of a span of 3-bit codes, whose `bytes` bytes are at `codes`.
static inline void load_threes(const std::uint8_t* codes, std::int64_t bytes, std::int64_t begin, std::int64_t end,
                               std::uint32_t* out) {
    for (std::int64_t word = begin; word < end; ++word, ++out) {
        const std::int64_t unit = word / 3 * 12, place = word % 3;
        std::uint8_t buffer[16] = {};
        std::memcpy(buffer, codes + unit, static_cast<std::size_t>(std::min<std::int64_t>(12, bytes - unit)));
        std::uint32_t own, fourth;
        std::memcpy(&own, buffer + place * 3, 4);
        std::memcpy(&fourth, buffer + 9, 4);
        *out = spread_threes(own & 0xFFFFFF) | (spread_threes(fourth & 0xFFFFFF) >> place & 0x11111111) << 3;
    }
}

// Words [begin, end), at most kLanes, of the span of a row that begins with input `first` and has `count`; zero beyond.
template <class V, int bits>
static inline typename V::Float load_words(const PackedView& weight, std::int64_t row, std::int64_t first,
                                           std::int64_t count, std::int64_t begin, std::int64_t end) {
    alignas(64) std::uint32_t buffer[V::kLanes] = {};
    const std::uint8_t* codes = weight.codes + row * row_bytes(weight) + first * bits / 8;
    const std::int64_t bytes = (count * bits + 7) / 8;
    if constexpr (bits == 3) {
        load_threes(codes, bytes, begin, end, buffer);
    } else {
        std::memcpy(buffer, codes + begin * 4, static_cast<std::size_t>(std::min(end * 4, bytes) - begin * 4));
    }
    return V::load(reinterpret_cast<const float*>(buffer));
}

// One span of output rows row ... row + kPanel - 1: inputs first ... first + count - 1.
template <class V, int bits>
static void prepack_span(const PackedView& weight, std::int64_t row, std::int64_t index, std::int64_t first,
                         std::int64_t count, std::uint8_t* out) {
    constexpr std::int64_t panel = V::kPanel;
    auto* scales = reinterpret_cast<std::uint16_t*>(out);
    std::uint8_t* zeros = out + scale_bytes(panel);
    const std::int64_t group = group_of_span(weight, index), rows = std::min(panel, weight.rows - row);
    std::memset(out, 0, static_cast<std::size_t>(scale_bytes(panel) + zero_bytes(weight, panel)));
    for (std::int64_t j = 0; j < rows; ++j) {
        scales[j] = weight.scales[(row + j) * group_count(weight) + group];
        if (weight.zeros) zeros[j] = weight.zeros[(row + j) * group_count(weight) + group];
    }
    auto* out_words = reinterpret_cast<float*>(zeros + zero_bytes(weight, panel));
    const std::int64_t words = span_words(weight, count);
    for (std::int64_t w = 0; w < words; w += V::kLanes) {
        const std::int64_t taken = std::min<std::int64_t>(V::kLanes, words - w);
        for (std::int64_t j = 0; j < panel; j += V::kLanes) {
            typename V::Float tile[V::kLanes];
            for (std::int64_t i = 0; i < V::kLanes; ++i) {
                tile[i] = j + i < rows ? load_words<V, bits>(weight, row + j + i, first, count, w, w + taken)
                                       : V::broadcast(0.0f);
            }
            V::transpose(tile);
            for (std::int64_t i = 0; i < taken; ++i) V::store(out_words + (w + i) * panel + j, tile[i]);
        }
    }
}

// Output rows row ... row + kPanel - 1.
template <class V, int bits>
static void prepack_panel(const PackedView& weight, std::int64_t row, std::uint8_t* out) {
    const std::int64_t width = span_width(weight), step = span_bytes(weight, V::kPanel, width);
    for (std::int64_t index = 0; index < span_count(weight); ++index, out += step) {
        const std::int64_t first = index * width;
        prepack_span<V, bits>(weight, row, index, first, std::min(width, weight.columns - first), out);
    }
}

template <class V>
static std::int64_t prepacked_bytes(const PackedView& weight) {
    return round_up(weight.rows, V::kPanel) / V::kPanel * panel_bytes(weight, V::kPanel);
}

template <class V, int bits>
static void prepack(const PackedView& weight, std::uint8_t* out) {
    for (std::int64_t row = 0; row < weight.rows; row += V::kPanel, out += panel_bytes(weight, V::kPanel)) {
        prepack_panel<V, bits>(weight, row, out);
    }
}

}  // namespace tqs::panel
