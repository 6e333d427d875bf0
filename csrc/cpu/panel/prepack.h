// Writes the prepacked layout (layout.h). Runs once per weight, so it is plain code.
#pragma once

#include <cstring>

#include "core/half.h"
#include "cpu/panel/layout.h"
#include "quant/codes.h"

namespace tqs::panel {

template <class V>
static std::int64_t prepacked_bytes(const PackedView& weight) {
    return round_up(weight.rows, V::kPanel) / V::kPanel * panel_bytes(weight, V::kPanel);
}

template <class V, int bits>
static void prepack(const PackedView& weight, std::uint8_t* out) {
    constexpr std::int64_t panel = V::kPanel;
    const std::int64_t groups = group_count(weight);
    std::memset(out, 0, static_cast<std::size_t>(prepacked_bytes<V>(weight)));
    for (std::int64_t n = 0; n < weight.rows; ++n) {
        std::uint8_t* base = out + n / panel * panel_bytes(weight, panel);
        float* scales = reinterpret_cast<float*>(base);
        float* zeros = scales + groups * panel;
        std::uint8_t* codes = base + groups * panel * 2 * static_cast<std::int64_t>(sizeof(float));
        const std::int64_t j = n % panel;
        for (std::int64_t group = 0; group < groups; ++group) {
            scales[group * panel + j] = bfloat16_to_float(weight.scales[n * groups + group]);
            zeros[group * panel + j] = static_cast<float>(zero_point(weight, n, group));
        }
        const std::uint8_t* row = weight.codes + n * row_bytes(weight);
        for (std::int64_t k = 0; k < weight.columns; ++k) {
            const auto code = static_cast<unsigned>(read_code(row, k, bits));
            std::uint8_t* at = codes + k * code_row_bytes(bits, panel);
            if constexpr (bits == 8) {
                at[j] = static_cast<std::uint8_t>(code);
            } else if (j < panel / 2) {
                at[j] |= static_cast<std::uint8_t>(code);
            } else {
                at[j - panel / 2] |= static_cast<std::uint8_t>(code << 4);
            }
        }
    }
}

}  // namespace tqs::panel
