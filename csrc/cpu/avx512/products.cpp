#include "cpu/panel/products.h"

#include <immintrin.h>

#include "cpu/avx512/kernels.h"
#include "cpu/panel/depthwise.h"
#include "cpu/panel/matmul.h"

namespace tqs::avx512 {
namespace {

template <class T>
struct ProductVector;

template <>
struct ProductVector<float> {
    using Element = float;
    using Float = __m512;
    static constexpr int kLanes = 16;
    static constexpr int kPanel = 32;
    static constexpr int kRows = 12;

    // The first `count` lanes; none for count <= 0.
    static __mmask16 first(std::int64_t count) {
        return static_cast<__mmask16>((1u << std::clamp<std::int64_t>(count, 0, kLanes)) - 1u);
    }
    static Float broadcast(float value) { return _mm512_set1_ps(value); }
    static Float load(const float* aligned) { return _mm512_load_ps(aligned); }
    static Float load_first(const float* at, std::int64_t count) { return _mm512_maskz_loadu_ps(first(count), at); }
    static void store_first(float* at, Float value, std::int64_t count) {
        _mm512_mask_storeu_ps(at, first(count), value);
    }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
};

template <>
struct ProductVector<double> {
    using Element = double;
    using Float = __m512d;
    static constexpr int kLanes = 8;
    static constexpr int kPanel = 16;
    static constexpr int kRows = 12;

    static __mmask8 first(std::int64_t count) {
        return static_cast<__mmask8>((1u << std::clamp<std::int64_t>(count, 0, kLanes)) - 1u);
    }
    static Float broadcast(double value) { return _mm512_set1_pd(value); }
    static Float load(const double* aligned) { return _mm512_load_pd(aligned); }
    static Float load_first(const double* at, std::int64_t count) { return _mm512_maskz_loadu_pd(first(count), at); }
    static void store_first(double* at, Float value, std::int64_t count) {
        _mm512_mask_storeu_pd(at, first(count), value);
    }
    static Float add(Float a, Float b) { return _mm512_add_pd(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_pd(a, b, c); }
    static double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
};

template <class T>
using Products = panel::Products<ProductVector<T>>;

template <class T>
constexpr ProductKernels kernels = {
    .panel_columns = ProductVector<T>::kPanel,
    .packed_elements = Products<T>::packed_elements,
    .pack = Products<T>::pack,
    .gemm = Products<T>::gemm,
    .matmul_scratch = panel::matmul_scratch<Products<T>>,
    .matmul = panel::matmul<Products<T>>,
    .depthwise_scratch = panel::depthwise_scratch<Products<T>>,
    .depthwise = panel::depthwise<Products<T>>,
};

}  // namespace

constinit const ProductKernels kProducts[kPrecisions] = {kernels<float>, kernels<double>};

}  // namespace tqs::avx512
