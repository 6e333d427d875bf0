// NEON (ASIMD) as the vectors of cpu/panel's program kernels: Wide<float> and Wide<double>. Arithmetic, comparisons and
// `mask ? a : b` are the compiler's own vector operators; here is what they lack.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace tqs::neon {
namespace {  // internal linkage for all that is instantiated over it: see csrc/README.md

template <class T>
struct Wide;

template <>
struct Wide<double> {
    using Element = double;
    using Vector = double __attribute__((vector_size(16)));
    using Bits = std::int64_t __attribute__((vector_size(16)));
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 2;

    static Vector broadcast(double value) { return Vector(vdupq_n_f64(value)); }
    static Vector load(const double* at) { return Vector(vld1q_f64(at)); }
    static void store(double* at, Vector value) { vst1q_f64(at, float64x2_t(value)); }
    // The first `count` lanes, fewer than kLanes; the others of `load_first` are `otherwise`.
    static Vector load_first(const double* at, std::int64_t count, Vector otherwise) {
        return count > 0 ? Vector(vld1q_lane_f64(at, float64x2_t(otherwise), 0)) : otherwise;
    }
    static void store_first(double* at, Vector value, std::int64_t count) {
        if (count > 0) vst1q_lane_f64(at, float64x2_t(value), 0);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return Vector(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
    }
    static Vector square_root(Vector x) { return Vector(vsqrtq_f64(float64x2_t(x))); }
    static Vector round(Vector x) { return Vector(vrndnq_f64(float64x2_t(x))); }
    static Vector floor(Vector x) { return Vector(vrndmq_f64(float64x2_t(x))); }
    static Vector ceil(Vector x) { return Vector(vrndpq_f64(float64x2_t(x))); }
    static Vector trunc(Vector x) { return Vector(vrndq_f64(float64x2_t(x))); }
    static bool any(Bits mask) { return vmaxvq_u32(uint32x4_t(mask)) != 0; }
};

template <>
struct Wide<float> {
    using Element = float;
    using Vector = float __attribute__((vector_size(16)));
    using Bits = std::int32_t __attribute__((vector_size(16)));
    template <class U>
    using Other = Wide<U>;
    static constexpr int kLanes = 4;

    static Vector broadcast(float value) { return Vector(vdupq_n_f32(value)); }
    static Vector load(const float* at) { return Vector(vld1q_f32(at)); }
    static void store(float* at, Vector value) { vst1q_f32(at, float32x4_t(value)); }
    static Vector load_first(const float* at, std::int64_t count, Vector otherwise) {
        float32x4_t lanes = float32x4_t(otherwise);
        if (count > 0) lanes = vld1q_lane_f32(at, lanes, 0);
        if (count > 1) lanes = vld1q_lane_f32(at + 1, lanes, 1);
        if (count > 2) lanes = vld1q_lane_f32(at + 2, lanes, 2);
        return Vector(lanes);
    }
    static void store_first(float* at, Vector value, std::int64_t count) {
        const float32x4_t lanes = float32x4_t(value);
        if (count > 0) vst1q_lane_f32(at, lanes, 0);
        if (count > 1) vst1q_lane_f32(at + 1, lanes, 1);
        if (count > 2) vst1q_lane_f32(at + 2, lanes, 2);
    }
    static Vector multiply_add(Vector a, Vector b, Vector c) {
        return Vector(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
    }
    static Vector square_root(Vector x) { return Vector(vsqrtq_f32(float32x4_t(x))); }
    static Vector round(Vector x) { return Vector(vrndnq_f32(float32x4_t(x))); }
    static Vector floor(Vector x) { return Vector(vrndmq_f32(float32x4_t(x))); }
    static Vector ceil(Vector x) { return Vector(vrndpq_f32(float32x4_t(x))); }
    static Vector trunc(Vector x) { return Vector(vrndq_f32(float32x4_t(x))); }
    static bool any(Bits mask) { return vmaxvq_u32(uint32x4_t(mask)) != 0; }

    // The halves as float64, and back.
    using Half = Wide<double>::Vector;
    static Half low(Vector x) { return Half(vcvt_f64_f32(vget_low_f32(float32x4_t(x)))); }
    static Half high(Vector x) { return Half(vcvt_high_f64_f32(float32x4_t(x))); }
    static Vector narrow(Half low, Half high) {
        return Vector(vcvt_high_f32_f64(vcvt_f32_f64(float64x2_t(low)), float64x2_t(high)));
    }
};

}  // namespace
}  // namespace tqs::neon
