#include "quant/search.h"

#include <array>

#include "quant/format.h"

namespace tqs {
namespace {

constexpr int kRatios = kScaleCandidates / 2;

// Ratios to the minmax scale in 64ths (exact in binary), one row per format. The rows reach from "the extreme fits the
// positive side" (2^(b-1) / (2^(b-1) - 1)) down to where clipping stops paying: the fewer the codes, the lower. Steps
// may be coarse because least squares moves within one.
constexpr int kSymmetricRatios[4][kRatios] = {
    {64, 128, 112, 98, 86, 76, 70, 58, 52, 46, 40, 34, 28, 23, 18, 13},
    {64, 86, 81, 76, 72, 68, 60, 56, 52, 48, 44, 40, 35, 30, 25, 20},
    {64, 74, 71, 68, 66, 62, 60, 58, 55, 52, 49, 46, 42, 38, 33, 28},
    {64, 65, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 52, 50, 48, 46},
};
constexpr int kRangeRatios[4][kRatios] = {
    {64, 61, 58, 55, 52, 49, 46, 43, 40, 37, 34, 31, 27, 23, 19, 15},
    {64, 62, 60, 58, 56, 53, 50, 47, 44, 41, 38, 35, 32, 28, 24, 20},
    {64, 63, 62, 61, 60, 58, 56, 54, 52, 50, 47, 44, 41, 38, 34, 30},
    {64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 48},
};

constexpr ScaleRatios both_signs(const int (&ratios)[kRatios]) {
    ScaleRatios all{};
    for (int i = 0; i < kRatios; ++i) {
        all.least[i] = ratios[i] / 64.0;
        all.least[kRatios + i] = -all.least[i];
    }
    return all;
}

constexpr ScaleRatios both_ends(const int (&ratios)[kRatios]) {
    ScaleRatios all{};
    for (int i = 0; i < kRatios; ++i) all.least[i] = all.most[i] = ratios[i] / 64.0;
    for (int i = 0; i < kRatios / 2; ++i) {
        const int high = kRatios + i, low = high + kRatios / 2;
        all.least[high] = all.most[low] = 1.0;
        all.most[high] = all.least[low] = ratios[2 * i + 1] / 64.0;
    }
    return all;
}

template <class Form>
constexpr std::array<ScaleRatios, kFormats> of_formats(const int (&rows)[kFormats][kRatios], Form form) {
    std::array<ScaleRatios, kFormats> formats{};
    for (int format = 0; format < kFormats; ++format) formats[format] = form(rows[format]);
    return formats;
}

constexpr auto kSymmetric = of_formats(kSymmetricRatios, both_signs);
constexpr auto kAsymmetric = of_formats(kRangeRatios, both_ends);

}  // namespace

const ScaleRatios& scale_ratios(int bits, bool symmetric) {
    const auto format = static_cast<std::size_t>(format_index(bits));
    return symmetric ? kSymmetric[format] : kAsymmetric[format];
}

}  // namespace tqs
