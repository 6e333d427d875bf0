// The arithmetic of core/rng.h for every backend: constexpr, so that it is also compiled for devices, and of + - * /
// alone, so that the bits are the same there. Files that include this are compiled with contraction off; functions are
// static, lest the linker take another file's copy.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace tqs {

// The raw generator, public so that it can be checked against the published vectors.
static constexpr std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                                            std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t first = std::uint64_t{0xD2511F53u} * counter[0];
        const std::uint64_t second = std::uint64_t{0xCD9E8D57u} * counter[2];
        counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(second),
                   static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(first)};
        key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
    }
    return counter;
}

// log(x) for normal x > 0: x = 2^e * m with m in [1/sqrt2, sqrt2), log m = 2 atanh(t), t = (m - 1) / (m + 1),
// |t| < 0.1716, so the first dropped term of the series, 2 t^23 / 23, is below 3e-19. Not std::log: its last bit
// differs between C libraries.
static constexpr double logarithm(double x) {
    const auto bits = std::bit_cast<std::uint64_t>(x);
    int exponent = static_cast<int>(bits >> 52) - 1023;
    double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent += 1;
    }
    const double t = (m - 1.0) / (m + 1.0);
    const double square = t * t;
    double series = 0.0;
    for (int k = 21; k >= 1; k -= 2) series = series * square + 1.0 / k;
    return exponent * 0.6931471805599453 + 2.0 * t * series;
}

// numerator[0] + numerator[1] x + ... over denominator[0] + ...
static constexpr double rational(double x, const double (&numerator)[8], const double (&denominator)[8]) {
    double above = numerator[7];
    double below = denominator[7];
    for (int k = 6; k >= 0; --k) {
        above = above * x + numerator[k];
        below = below * x + denominator[k];
    }
    return above / below;
}

// Wichura, "The percentage points of the normal distribution", Applied Statistics 37 (1988), AS 241, PPND16;
// relative error about 1e-16. Names as in the paper; a denominator's constant term is 1.
// root(x): the square root of a double, correctly rounded.
template <class Root>
static constexpr double inverse_normal(double p, Root root) {
    constexpr double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                             1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                             3.3430575583588128105e4, 2.5090809287301226727e3};
    constexpr double b[8] = {1.0,
                             4.2313330701600911252e1,
                             6.8718700749205790830e2,
                             5.3941960214247511077e3,
                             2.1213794301586595867e4,
                             3.9307895800092710610e4,
                             2.8729085735721942674e4,
                             5.2264952788528545610e3};
    constexpr double c[8] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                             3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                             2.27238449892691845833e-2, 7.74545014278341407640e-4};
    constexpr double d[8] = {1.0,
                             2.05319162663775882187e0,
                             1.67638483018380384940e0,
                             6.89767334985100004550e-1,
                             1.48103976427480074590e-1,
                             1.51986665636164571966e-2,
                             5.47593808499534494600e-4,
                             1.05075007164441684324e-9};
    constexpr double e[8] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                             2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                             2.71155556874348757815e-5, 2.01033439929228813265e-7};
    constexpr double f[8] = {1.0,
                             5.99832206555887937690e-1,
                             1.36929880922735805310e-1,
                             1.48753612908506148525e-2,
                             7.86869131145613259100e-4,
                             1.84631831751005468180e-5,
                             1.42151175831644588870e-7,
                             2.04426310338993978564e-15};
    const double q = p - 0.5, size = q < 0.0 ? -q : q;
    if (size <= 0.425) return q * rational(0.180625 - q * q, a, b);
    const double r = root(-logarithm(q < 0.0 ? p : 1.0 - p));
    const double magnitude = r <= 5.0 ? rational(r - 1.6, c, d) : rational(r - 5.0, e, f);
    return q < 0.0 ? -magnitude : magnitude;
}

// The normal number of a word of the generator.
template <class Root>
static constexpr float normal_of(std::uint32_t word, Root root) {
    return static_cast<float>(inverse_normal((static_cast<double>(word) + 0.5) * 0x1p-32, root));
}

// Words 4 block ... 4 block + 3 of a stream.
static constexpr std::array<std::uint32_t, 4> stream_words(std::uint64_t seed, std::uint64_t stream,
                                                           std::uint64_t block) {
    return philox4x32_10({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                          static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                         {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

}  // namespace tqs
