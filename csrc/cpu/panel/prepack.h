// Writes the prepacked layout (layout.h): words of the portable bitstream, kLanes rows by kLanes words transposed at a
// time.
#pragma once

#include <cstring>

#include "cpu/panel/layout.h"
#include "quant/codes.h"

namespace tqs::panel {

// `words` (at most kLanes) words of a row from code `first` on, zero beyond the row.
template <class V, int bits>
static inline typename V::Float load_words(const PackedView& weight, std::int64_t row, std::int64_t first,
                                           std::int64_t words) {
    alignas(64) std::uint32_t buffer[V::kLanes] = {};
    const std::uint8_t* codes = weight.codes + row * row_bytes(weight);
    if constexpr (bits == stored_bits(bits)) {
        const std::int64_t begin = first * bits / 8, bytes = std::min(words * 4, row_bytes(weight) - begin);
        std::memcpy(buffer, codes + begin, static_cast<std::size_t>(bytes));
    } else {
        const std::int64_t last = std::min(first + words * codes_per_word(bits), weight.columns);
        for (std::int64_t k = first; k < last; ++k) {
            const auto code = static_cast<std::uint32_t>(read_code(codes, k, bits));
            buffer[(k - first) / codes_per_word(bits)] |= code
                                                          << ((k - first) % codes_per_word(bits) * stored_bits(bits));
        }
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
                tile[i] = j + i < rows
                              ? load_words<V, bits>(weight, row + j + i, first + w * codes_per_word(bits), taken)
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
