#include "cpu/panel/products.h"

#include <immintrin.h>

#include "cpu/avx2/kernels.h"
#include "cpu/panel/depthwise.h"
#include "cpu/panel/matmul.h"

namespace tqs::avx2 {
namespace {

template <class T>
struct ProductVector;

template <>
struct ProductVector<float> {
    using Element = float;
    using Float = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kPanel = 16;
    static constexpr int kRows = 6;

    // The first `count` lanes; none for count <= 0.
    static __m256i first(std::int64_t count) {
        const int bounded = static_cast<int>(std::clamp<std::int64_t>(count, 0, kLanes));
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(bounded), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static Float broadcast(float value) { return _mm256_set1_ps(value); }
    static Float load(const float* aligned) { return _mm256_load_ps(aligned); }
    static Float load_first(const float* at, std::int64_t count) {
        return count >= kLanes ? _mm256_loadu_ps(at) : _mm256_maskload_ps(at, first(count));
    }
    static void store_first(float* at, Float value, std::int64_t count) {
        if (count >= kLanes) return _mm256_storeu_ps(at, value);
        _mm256_maskstore_ps(at, first(count), value);
    }
    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
};

template <>
struct ProductVector<double> {
    using Element = double;
    using Float = __m256d;
    static constexpr int kLanes = 4;
    static constexpr int kPanel = 8;
    static constexpr int kRows = 6;

    static __m256i first(std::int64_t count) {
        return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
    }
    static Float broadcast(double value) { return _mm256_set1_pd(value); }
    static Float load(const double* aligned) { return _mm256_load_pd(aligned); }
    static Float load_first(const double* at, std::int64_t count) {
        return count >= kLanes ? _mm256_loadu_pd(at) : _mm256_maskload_pd(at, first(count));
    }
    static void store_first(double* at, Float value, std::int64_t count) {
        if (count >= kLanes) return _mm256_storeu_pd(at, value);
        _mm256_maskstore_pd(at, first(count), value);
    }
    static Float add(Float a, Float b) { return _mm256_add_pd(a, b); }
    static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_pd(a, b, c); }
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

}  // namespace tqs::avx2
