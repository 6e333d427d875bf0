// Compiled with floating-point contraction off: a fused multiply-add would give other last bits on some machines.
#include "core/rng.h"

#include <cmath>

namespace tqs {
namespace {

template <class Transform>
void fill(float* out, std::int64_t count, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset,
          Transform transform) {
    std::int64_t done = 0;
    while (done < count) {
        const std::uint64_t index = offset + static_cast<std::uint64_t>(done);
        const auto words = stream_words(seed, stream, index / 4);
        for (std::size_t word = index % 4; word < 4 && done < count; ++word) out[done++] = transform(words[word]);
    }
}

}  // namespace

void fill_uniform(float* out, std::int64_t count, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset) {
    fill(out, count, seed, stream, offset,
         [](std::uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f; });
}

void fill_normal(float* out, std::int64_t count, std::uint64_t seed, std::uint64_t stream, std::uint64_t offset) {
    fill(out, count, seed, stream, offset,
         [](std::uint32_t word) { return normal_of(word, [](double x) { return std::sqrt(x); }); });
}

}  // namespace tqs
