// csrc/cuda/device/instructions.cuh for the emulator: the same functions with the same meaning, in plain C++.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define threadIdx (::emulator::thread_index())
#define blockIdx (::emulator::block_index)
#define gridDim (::emulator::grid_size)

namespace tqs::cuda {

struct alignas(16) Vector {
    std::uint32_t words[4];
};

inline void begin_kernel() {
    emulator::begin_kernel();
}
template <class T>
inline T* in_global(T* address) {
    return address;
}
inline unsigned char* shared_memory() {
    return emulator::shared_memory();
}
inline void block_barrier() {
    emulator::meet_block("block_barrier");
}
template <int threads>
inline void part_barrier() {
    static_assert(threads % 32 == 0);
    emulator::meet_part("part_barrier", threads);
}
inline void warp_barrier() {
    emulator::meet_warp("warp_barrier", nullptr, nullptr);
}

namespace emulated {

template <class T>
struct Shuffle {
    T value;
    int mask;
    T result;
};

template <class T>
void shuffle(void* const* brought, int count) {
    for (int lane = 0; lane < count; ++lane) {
        auto* own = static_cast<Shuffle<T>*>(brought[lane]);
        own->result = static_cast<Shuffle<T>*>(brought[lane ^ own->mask])->value;
    }
}

struct ShuffleFrom {
    int value, lane, result;
};

inline void shuffle_from(void* const* brought, int) {
    for (int lane = 0; lane < 32; ++lane) {
        auto* own = static_cast<ShuffleFrom*>(brought[lane]);
        own->result = static_cast<ShuffleFrom*>(brought[own->lane])->value;
    }
}

// The fragments of one lane.
template <class T>
struct Product {
    T* c;
    const std::uint32_t* a;
    const std::uint32_t* b;
};

inline double bfloat16_value(std::uint32_t bits) {
    const std::uint32_t wide = bits << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}
inline double float16_value(std::uint32_t bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    const double size = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                       : std::ldexp(fraction, -24);
    return bits >> 15 & 1 ? -size : size;
}

// Tensor cores cut sums where float32 ends; so does this, which is also the larger error.
inline float truncated(double value) {
    const auto nearest = static_cast<float>(value);
    return std::isfinite(value) && std::fabs(nearest) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

// Element (row, k) of a [16, 16], (k, column) of b [16, 8].
template <double (*value)(std::uint32_t)>
void multiply_16(void* const* lanes, int) {
    double a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto* own = static_cast<const Product<float>*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int e = 0; e < 2; ++e) {
            for (int i = 0; i < 4; ++i) {
                a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + e] = value(own->a[i] >> 16 * e & 0xFFFF);
            }
            for (int i = 0; i < 2; ++i) b[2 * t + 8 * i + e][g] = value(own->b[i] >> 16 * e & 0xFFFF);
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        auto* own = static_cast<Product<float>*>(lanes[lane]);
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            double sum = own->c[i];
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            own->c[i] = truncated(sum);
        }
    }
}

// Rows of 8 elements, by lane, and what a lane gets of them.
struct Matrices {
    std::uint16_t row[8];
    std::uint32_t* words;
};
template <bool transposed>
void share_matrices(void* const* brought, int) {
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const auto element = [&](int e) -> std::uint32_t {
                const int across = lane / 4, along = 2 * (lane % 4) + e;
                const int row = transposed ? along : across, column = transposed ? across : along;
                return static_cast<const Matrices*>(brought[8 * i + row])->row[column];
            };
            static_cast<Matrices*>(brought[lane])->words[i] = element(0) | element(1) << 16;
        }
    }
}

// a [16, 32] unsigned, b [32, 8] signed bytes.
inline void multiply_8(void* const* lanes, int) {
    std::int64_t a[16][32], b[32][8];
    for (int lane = 0; lane < 32; ++lane) {
        const auto* own = static_cast<const Product<int>*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int e = 0; e < 4; ++e) {
            for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][4 * t + 16 * (i / 2) + e] = own->a[i] >> 8 * e & 0xFF;
            for (int i = 0; i < 2; ++i) {
                b[4 * t + 16 * i + e][g] = static_cast<std::int8_t>(own->b[i] >> 8 * e & 0xFF);
            }
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        auto* own = static_cast<Product<int>*>(lanes[lane]);
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            std::int64_t sum = own->c[i];
            for (int k = 0; k < 32; ++k) sum += a[row][k] * b[k][column];
            own->c[i] = static_cast<int>(sum);  // wraps, as the instruction does
        }
    }
}

}  // namespace emulated

inline float shuffle_xor(float value, int mask) {
    emulated::Shuffle<float> own{value, mask, 0.0f};
    emulator::meet_warp("shuffle_xor", &own, emulated::shuffle<float>);
    return own.result;
}
inline int shuffle_xor(int value, int mask) {
    emulated::Shuffle<int> own{value, mask, 0};
    emulator::meet_warp("shuffle_xor", &own, emulated::shuffle<int>);
    return own.result;
}

inline double shuffle_xor(double value, int mask) {
    emulated::Shuffle<double> own{value, mask, 0.0};
    emulator::meet_warp("shuffle_xor", &own, emulated::shuffle<double>);
    return own.result;
}
inline int shuffle_from(int value, int lane) {
    emulated::ShuffleFrom own{value, lane, 0};
    emulator::meet_warp("shuffle_from", &own, emulated::shuffle_from);
    return own.result;
}

inline Vector load_shared_data(const void* address) {
    emulator::require_aligned(address, "load_shared_data");
    Vector value;
    std::memcpy(&value, address, sizeof value);
    return value;
}
inline Vector load_streamed(const void* address) {
    emulator::require_aligned(address, "load_streamed");
    Vector value;
    std::memcpy(&value, address, sizeof value);
    return value;
}
inline std::uint32_t load_word(const std::uint32_t* address) {
    return *address;
}
inline std::uint16_t load_half_word(const std::uint16_t* address) {
    return *address;
}
inline Vector load_from_shared(const unsigned char* address) {
    emulator::note_shared_load(address);
    Vector value;
    std::memcpy(&value, address, sizeof value);
    return value;
}

template <bool transposed>
inline void load_matrices_as(const char* name, const unsigned char* address, std::uint32_t (&matrices)[4]) {
    emulator::note_shared_load(address);
    emulated::Matrices own{};
    std::memcpy(own.row, address, sizeof own.row);
    own.words = matrices;
    emulator::meet_warp(name, &own, emulated::share_matrices<transposed>);
}
inline void load_matrices(const unsigned char* address, std::uint32_t (&matrices)[4]) {
    load_matrices_as<false>("load_matrices", address, matrices);
}
inline void load_matrices_transposed(const unsigned char* address, std::uint32_t (&matrices)[4]) {
    load_matrices_as<true>("load_matrices_transposed", address, matrices);
}

inline float load_fresh(const float* address) {
    return *address;
}
inline int load_fresh(const int* address) {
    return *address;
}
inline void device_fence() {}
inline unsigned count_to(unsigned* counter, unsigned last) {
    const unsigned before = *counter;
    *counter = before >= last ? 0 : before + 1;
    return before;
}

inline void copy_async(unsigned char* shared, const void* global, bool valid) {
    emulator::issue_copy({shared, valid ? static_cast<const unsigned char*>(global) : nullptr});
}
template <class T>
inline void copy_element_async(T* shared, const T* global, bool valid) {
    emulator::issue_copy({reinterpret_cast<unsigned char*>(shared),
                          valid ? reinterpret_cast<const unsigned char*>(global) : nullptr, sizeof(T)});
}
inline void commit_copies() {
    emulator::commit_copies();
}
template <int pending>
inline void wait_copies() {
    emulator::wait_copies(pending);
}

inline std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    return (a & b) | c;
}
inline std::uint32_t permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(b) << 32 | a;
    std::uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        result |= static_cast<std::uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    }
    return result;
}

inline float as_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline std::uint32_t as_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float fused(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline double fused(double a, double b, double c) {
    return std::fma(a, b, c);
}
inline float product(float a, float b) {
    return a * b;
}
inline double product(double a, double b) {
    return a * b;
}
inline float quotient(float a, float b) {
    return a / b;
}
inline int round_to_int(float value) {
    return static_cast<int>(std::nearbyint(value));
}
inline float from_int(int value) {
    return static_cast<float>(value);
}
inline float float16_to_float(std::uint16_t bits) {
    return static_cast<float>(emulated::float16_value(bits));
}
// Nearest, ties to even.
inline std::uint16_t float_to_float16(float value) {
    const auto sign = static_cast<std::uint16_t>(as_bits(value) >> 16 & 0x8000);
    const double size = std::fabs(static_cast<double>(value));
    if (std::isnan(value)) return 0x7FFF;
    if (size == 0.0) return sign;
    if (size >= 65520.0) return static_cast<std::uint16_t>(sign | 0x7C00);
    int exponent = 0;
    std::frexp(size, &exponent);
    const int unit = std::max(exponent - 11, -24);  // of the last place
    const auto steps = static_cast<int>(std::nearbyint(std::ldexp(size, -unit)));
    // Below 2^-14 the steps are the bits; above, a carry into the exponent is what adding does.
    return static_cast<std::uint16_t>(sign | (unit == -24 ? steps : ((unit + 24) << 10) + steps));
}
// One bfloat16 from a double, nearest, ties to even; in range, no NaN.
inline std::uint32_t bfloat16_bits(double value) {
    const std::uint32_t bits = as_bits(static_cast<float>(value));
    return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}
inline std::uint32_t fma_bfloat16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    const auto half = [&](int shift) {
        return bfloat16_bits(emulated::bfloat16_value(a >> shift & 0xFFFF) *
                                 emulated::bfloat16_value(b >> shift & 0xFFFF) +
                             emulated::bfloat16_value(c >> shift & 0xFFFF));
    };
    return half(0) | half(16) << 16;
}
inline std::uint32_t add_float16x2(std::uint32_t a, std::uint32_t b) {
    const auto half = [&](int shift) -> std::uint32_t {
        return float_to_float16(static_cast<float>(emulated::float16_value(a >> shift & 0xFFFF) +
                                                   emulated::float16_value(b >> shift & 0xFFFF)));
    };
    return half(0) | half(16) << 16;
}

inline std::uint32_t bfloat16_pair(float low, float high) {
    const auto half = [](float value) {
        const std::uint32_t bits = as_bits(value);
        return std::isnan(value) ? 0x7FFFu : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    };
    return half(low) | half(high) << 16;
}
inline std::uint32_t float16_pair(float low, float high) {
    return float_to_float16(low) | static_cast<std::uint32_t>(float_to_float16(high)) << 16;
}
inline float power_of_two(float value) {
    const float power = std::exp2(value);
    return power < 0x1p-126f ? 0.0f : power;
}

inline void mma_bfloat16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    emulated::Product<float> own{c, a, b};
    emulator::meet_warp("mma_bfloat16", &own, emulated::multiply_16<emulated::bfloat16_value>);
}
inline void mma_float16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    emulated::Product<float> own{c, a, b};
    emulator::meet_warp("mma_float16", &own, emulated::multiply_16<emulated::float16_value>);
}
inline void mma_int8(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    emulated::Product<int> own{c, a, b};
    emulator::meet_warp("mma_int8", &own, emulated::multiply_8);
}

}  // namespace tqs::cuda
