// Normal noise on a weight: the counter-based stream of core/rng.h, drawn where it is added.
#pragma once

#include <cmath>

#include "core/normal.h"
#include "cuda/device/lanes.cuh"

namespace tqs::cuda {

inline constexpr int kNoiseThreads = 256;

struct NoiseArgument {
    const char* from;
    char* to;
    Precision precision;
    std::int64_t count;
    double scale;
    std::uint64_t seed, stream;
};

// A thread per block of the generator, four elements. What takes time is float64 arithmetic, about a hundred
// instructions per element; accesses 16 bytes apart cost less than bringing the words of a block to other threads.
static __global__ void __launch_bounds__(kNoiseThreads) draw_noise(const NoiseArgument a) {
    begin_kernel();
    const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kNoiseThreads + threadIdx.x;
    if (4 * block >= a.count) return;
    const auto words = stream_words(a.seed, a.stream, static_cast<std::uint64_t>(block));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const std::int64_t element = 4 * block + i;
        if (element >= a.count) return;
        const float normal = normal_of(words[static_cast<std::size_t>(i)], [](double x) { return std::sqrt(x); });
        const double before = load<double>(a.from, a.precision, element);
        store(a.to, a.precision, element, before + a.scale * static_cast<double>(normal));
    }
}

}  // namespace tqs::cuda
