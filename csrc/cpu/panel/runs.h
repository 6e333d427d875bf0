// Runs of elements of either precision, to and from contiguous blocks of the kernel's own.
#pragma once

#include <type_traits>

#include "backend/program_kernels.h"

namespace tqs::panel {

// Calls f(pointer) with `data` as a pointer to elements of `precision`.
template <class F>
static inline void with_elements(const char* data, Precision precision, const F& f) {
    if (precision == Precision::float32) {
        f(reinterpret_cast<const float*>(data));
    } else {
        f(reinterpret_cast<const double*>(data));
    }
}

template <class W>
static void fill_run(typename W::Element* to, typename W::Element value, std::int64_t count) {
    const auto vector = W::broadcast(value);
    std::int64_t i = 0;
    for (; i + W::kLanes <= count; i += W::kLanes) W::store(to + i, vector);
    if (i < count) W::store_first(to + i, vector, count - i);
}

template <class W>
static void copy_run(typename W::Element* to, const typename W::Element* from, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + W::kLanes <= count; i += W::kLanes) W::store(to + i, W::load(from + i));
    if (i < count) W::store_first(to + i, W::load_first(from + i, count - i, W::broadcast(0)), count - i);
}

// to[i] = from[i * stride], `from` being elements of `precision`.
template <class W>
static void load_run(typename W::Element* to, const char* from, Precision precision, std::int64_t stride,
                     std::int64_t count) {
    using T = typename W::Element;
    with_elements(from, precision, [&](const auto* source) {
        if (stride == 0) return fill_run<W>(to, static_cast<T>(*source), count);
        if constexpr (std::is_same_v<decltype(source), const T*>) {
            if (stride == 1) return copy_run<W>(to, source, count);
        }
        if (stride == 1) {
            for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(source[i]);
        } else {
            for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(source[i * stride]);
        }
    });
}

// to[i * stride] = from[i], `to` being elements of `precision`.
template <class W>
static void store_run(char* to, Precision precision, std::int64_t stride, const typename W::Element* from,
                      std::int64_t count) {
    using T = typename W::Element;
    const auto store = [&](auto* target) {
        using Target = std::remove_pointer_t<decltype(target)>;
        if constexpr (std::is_same_v<Target, T>) {
            if (stride == 1) return copy_run<W>(target, from, count);
        }
        for (std::int64_t i = 0; i < count; ++i) target[i * stride] = static_cast<Target>(from[i]);
    };
    if (precision == Precision::float32) {
        store(reinterpret_cast<float*>(to));
    } else {
        store(reinterpret_cast<double*>(to));
    }
}

}  // namespace tqs::panel
