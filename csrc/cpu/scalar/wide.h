// One element as the vector of cpu/panel's program kernels. Its transcendental functions are the C library's in float64
// (panel/functions.h), so that the other folders' polynomials are measured against something else.
#pragma once

#include <cmath>
#include <cstdint>

namespace tqs::scalar {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

template <class T>
struct Wide {
    using Element = T;
    using Vector = T;
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 1;

    static T broadcast(T value) { return value; }
    static T load(const T* at) { return *at; }
    static void store(T* at, T value) { *at = value; }
    static T load_first(const T*, std::int64_t, T otherwise) { return otherwise; }
    static void store_first(T*, T, std::int64_t) {}
    static T multiply_add(T a, T b, T c) { return a * b + c; }
    static T square_root(T x) { return std::sqrt(x); }
    static T round(T x) { return std::nearbyint(x); }
    static T floor(T x) { return std::floor(x); }
    static T ceil(T x) { return std::ceil(x); }
    static T trunc(T x) { return std::trunc(x); }
};

}  // namespace
}  // namespace tqs::scalar
