#include <algorithm>

#include "cpu/panel/depthwise.h"
#include "cpu/panel/matmul.h"
#include "cpu/scalar/kernels.h"

namespace tqs::scalar {
namespace {

// Weights stay [N, K]: a panel of one column.
template <class T>
struct Products {
    using Element = T;

    static std::int64_t packed_elements(std::int64_t n, std::int64_t k) { return n * k; }

    static void pack(const void* w, std::int64_t n, std::int64_t k, std::int64_t stride_n, std::int64_t stride_k,
                     void* panels) {
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t j = 0; j < k; ++j) {
                static_cast<T*>(panels)[i * k + j] = static_cast<const T*>(w)[i * stride_n + j * stride_k];
            }
        }
    }

    static void gemm(const GemmTask& task) {
        for (std::int64_t row = 0; row < task.outer * task.inner; ++row) {
            const std::int64_t outer = row / task.inner, inner = row % task.inner;
            const T* a = static_cast<const T*>(task.a) + outer * task.a_outer + inner * task.a_inner;
            T* y = static_cast<T*>(task.y) + outer * task.y_outer + inner * task.y_inner;
            for (std::int64_t n = 0; n < task.n; ++n) {
                const T* w = static_cast<const T*>(task.panels) + n * task.k;
                T sum = task.bias ? static_cast<const T*>(task.bias)[n] : T(0);
                if (task.accumulate) sum += y[n];
                for (std::int64_t k = 0; k < task.k; ++k) sum += a[k] * w[k];
                y[n] = sum;
            }
        }
    }

    static T multiply_add(T a, T b, T c) { return a * b + c; }
};

template <class T>
constexpr ProductKernels kernels = {
    .panel_columns = 1,
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

}  // namespace tqs::scalar
