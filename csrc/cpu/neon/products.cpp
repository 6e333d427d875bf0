#include "cpu/panel/products.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"
#include "cpu/panel/depthwise.h"
#include "cpu/panel/matmul.h"

namespace tqs::neon {
namespace {

// Rows as for AVX-512, which has as many registers (panel/products.h).
template <class T>
struct ProductVector {
    using Element = T;
    using Float = typename Wide<T>::Vector;
    static constexpr int kLanes = Wide<T>::kLanes;
    static constexpr int kPanel = 2 * kLanes;
    static constexpr int kRows = 12;

    static Float broadcast(T value) { return Wide<T>::broadcast(value); }
    static Float load(const T* aligned) { return Wide<T>::load(aligned); }
    // The first `count` lanes; none for count <= 0.
    static Float load_first(const T* at, std::int64_t count) {
        return count >= kLanes ? Wide<T>::load(at) : Wide<T>::load_first(at, count, broadcast(0));
    }
    static void store_first(T* at, Float value, std::int64_t count) {
        if (count >= kLanes) return Wide<T>::store(at, value);
        Wide<T>::store_first(at, value, count);
    }
    static Float add(Float a, Float b) { return a + b; }
    static Float multiply_add(Float a, Float b, Float c) { return Wide<T>::multiply_add(a, b, c); }
    static T multiply_add(T a, T b, T c) {
        if constexpr (sizeof(T) == 4) {
            return __builtin_fmaf(a, b, c);
        } else {
            return __builtin_fma(a, b, c);
        }
    }
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

}  // namespace tqs::neon
