// Runs the product and attention kernels of native programs over odd shapes on blocks of exactly the promised size.
// Each ISA must agree with the scalar one. Prints what went wrong and exits 1. Driven by tests/test_kernels_native.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

#include "backend/kernel_table.h"
#include "core/aligned.h"
#include "core/rng.h"
#include "guarded.h"

namespace {

using tqs::KernelTable;
using tqs::Operand;
using tqs::Precision;
using tqs::ProductKernels;

int failures = 0;

template <class T>
class Block {
  public:
    explicit Block(std::int64_t size, std::uint64_t stream = 0)
        : size_(static_cast<std::size_t>(size)), bytes_(size * static_cast<std::int64_t>(sizeof(T))) {
        std::vector<float> values(size_);
        tqs::fill_normal(values.data(), size, 1, stream, 0);
        std::copy(values.begin(), values.end(), data());
    }
    T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
    std::span<const T> all() const { return {data(), size_}; }

  private:
    std::size_t size_;
    Guarded bytes_;
};

template <class T>
void compare(std::span<const T> got, std::span<const T> expected, const char* what, const KernelTable& table,
             std::int64_t m, std::int64_t n, std::int64_t k) {
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (std::fabs(got[i] - expected[i]) <= T(1e-4) * (T(4) + std::fabs(expected[i]))) continue;
        ++failures;
        std::printf("%s [%lld, %lld, %lld] on %s\n", what, static_cast<long long>(m), static_cast<long long>(n),
                    static_cast<long long>(k), tqs::isa_name(table.isa));
        return;
    }
}

template <class T>
constexpr Precision precision_of = sizeof(T) == 4 ? Precision::float32 : Precision::float64;

template <class T>
const ProductKernels& kernels_of(const KernelTable& table) {
    return table.program.products[static_cast<int>(precision_of<T>)];
}

// Contiguous [lanes, samples, sizes...].
template <class T>
Operand operand(const Block<T>& block, std::vector<std::int64_t> sizes, std::int64_t samples) {
    Operand result{};
    result.precision = precision_of<T>;
    result.rank = static_cast<int>(sizes.size());
    std::int64_t stride = 1;
    for (int i = result.rank - 1; i >= 0; --i) {
        result.sizes[i] = sizes[static_cast<std::size_t>(i)];
        result.strides[i] = stride;
        stride *= result.sizes[i];
    }
    result.sample_stride = stride;
    result.lane_stride = stride * samples;
    result.data = block.data();
    return result;
}

// Rows in two levels with gaps; the gaps of y must stay as they are.
template <class T>
Block<T> run_gemm(const KernelTable& table, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) {
    const ProductKernels& kernels = kernels_of<T>(table);
    const std::int64_t outer = m % 3 == 0 ? 3 : 1, inner = m / outer;
    const std::int64_t a_outer = inner * (k + 2) + 1, y_outer = inner * (n + 1) + 3;
    const Block<T> a((outer - 1) * a_outer + (inner - 1) * (k + 2) + k, 1), w(n * k, 2), bias(n, 3);
    Block<T> y((outer - 1) * y_outer + (inner - 1) * (n + 1) + n, 4);
    const auto panels = tqs::allocate_aligned(kernels.packed_elements(n, k) * static_cast<std::int64_t>(sizeof(T)));
    kernels.pack(w.data(), n, k, k, 1, panels.get());
    kernels.gemm({outer, inner, a.data(), a_outer, k + 2, panels.get(), n, k, bias.data(), y.data(), y_outer, n + 1,
                  accumulate});
    return y;
}

template <class T>
Block<T> run_matmul(const KernelTable& table, std::int64_t m, std::int64_t n, std::int64_t k, bool transposed) {
    const ProductKernels& kernels = kernels_of<T>(table);
    constexpr std::int64_t lanes = 3, samples = 2, heads = 2;
    const Block<T> a(lanes * samples * heads * m * k, 1), b(lanes * samples * heads * k * n, 2);
    Block<T> y(lanes * samples * heads * m * n, 3);
    tqs::MatmulTask task{{lanes, samples, true},
                         operand(a, {heads, m, k}, samples),
                         operand(b, {heads, k, n}, samples),
                         operand(y, {heads, m, n}, samples),
                         nullptr};
    if (transposed) {
        task.a.strides[1] = 1, task.a.strides[2] = m;
        task.b.strides[1] = 1, task.b.strides[2] = k;
    }
    const auto scratch = tqs::allocate_aligned(kernels.matmul_scratch(task));
    task.scratch = scratch.get();
    kernels.matmul(task);
    return y;
}

template <class T>
Block<T> run_depthwise(const KernelTable& table, std::int64_t channels, std::int64_t length, std::int64_t taps,
                       bool channels_last) {
    const ProductKernels& kernels = kernels_of<T>(table);
    constexpr std::int64_t lanes = 3, samples = 2, multiplier = 2, stride = 2, padding = 1;
    const std::int64_t outputs = channels * multiplier, positions = (length + 2 * padding - taps) / stride + 1;
    const Block<T> x(lanes * samples * channels * length, 1), weight(outputs * taps, 2), bias(outputs, 3);
    Block<T> y(lanes * samples * outputs * positions, 4);
    tqs::DepthwiseTask task{{lanes, samples, true},
                            operand(x, {1, channels, length}, samples),
                            operand(weight, {outputs, 1, taps}, 1),
                            operand(bias, {outputs}, 1),
                            operand(y, {1, outputs, positions}, samples),
                            multiplier,
                            stride,
                            padding,
                            1,
                            nullptr};
    task.weight.lane_stride = task.weight.sample_stride = task.bias.lane_stride = task.bias.sample_stride = 0;
    if (channels_last) task.out.strides[1] = 1, task.out.strides[2] = outputs;
    const auto scratch = tqs::allocate_aligned(kernels.depthwise_scratch(task));
    task.scratch = scratch.get();
    kernels.depthwise(task);
    return y;
}

// Causal, `keys` being the last ones; heads between the queries as capture writes them, keys transposed or not.
template <class T>
Block<T> run_attention(const KernelTable& table, std::int64_t queries, std::int64_t keys, std::int64_t depth,
                       std::int64_t width, bool transposed) {
    const tqs::AttentionKernels& kernels = table.program.attention[static_cast<int>(precision_of<T>)];
    constexpr std::int64_t lanes = 3, samples = 2, heads = 2, all = lanes * samples * heads;
    const Block<T> q(all * queries * depth, 1), k(all * keys * depth, 2), v(all * keys * width, 3),
        mask(lanes * samples * queries * keys, 4);
    Block<T> out(all * queries * width, 5);
    tqs::AttentionTask task{{lanes, samples, true},
                            operand(q, {heads, queries, depth}, samples),
                            operand(k, {heads, keys, depth}, samples),
                            operand(v, {heads, keys, width}, samples),
                            operand(mask, {1, queries, keys}, samples),
                            operand(out, {heads, queries, width}, samples),
                            0.3,
                            true,
                            keys - queries,
                            nullptr};
    task.mask.sizes[0] = heads;
    task.mask.strides[0] = 0;
    task.out.strides[0] = width, task.out.strides[1] = heads * width;
    if (transposed) task.k.strides[1] = 1, task.k.strides[2] = keys;
    const auto scratch = tqs::allocate_aligned(kernels.attention_scratch(task));
    task.scratch = scratch.get();
    kernels.attention(task);
    return out;
}

template <class T>
void check(const KernelTable& table, const KernelTable& scalar) {
    for (const std::int64_t m : {1, 2, 3, 4, 6, 7, 12, 13, 29}) {
        for (const std::int64_t n : {1, 3, 8, 17, 32, 65, 129}) {
            const std::int64_t k = (m * 7 + n) % 33;
            for (const bool flag : {false, true}) {
                compare(run_gemm<T>(table, m, n, k, flag).all(), run_gemm<T>(scalar, m, n, k, flag).all(), "gemm",
                        table, m, n, k);
                compare(run_matmul<T>(table, m, n, k + 1, flag).all(), run_matmul<T>(scalar, m, n, k + 1, flag).all(),
                        "matmul", table, m, n, k);
            }
        }
    }
    for (const std::int64_t queries : {1, 2, 9, 17, 40}) {
        for (const std::int64_t keys : {1, 33, 70}) {
            const std::int64_t depth = (queries * 5 + keys) % 37 + 1, width = (queries + keys * 3) % 35 + 1;
            for (const bool flag : {false, true}) {
                compare(run_attention<T>(table, queries, keys, depth, width, flag).all(),
                        run_attention<T>(scalar, queries, keys, depth, width, flag).all(), "attention", table, queries,
                        width, keys);
            }
        }
    }
    for (const std::int64_t channels : {1, 5, 16, 33}) {
        for (const std::int64_t taps : {1, 3, 4}) {
            for (const bool flag : {false, true}) {
                compare(run_depthwise<T>(table, channels, 9, taps, flag).all(),
                        run_depthwise<T>(scalar, channels, 9, taps, flag).all(), "depthwise", table, channels, 9, taps);
            }
        }
    }
}

}  // namespace

int main() {
    const KernelTable& scalar = *tqs::cpu_tables()[0];
    for (const KernelTable* table : tqs::cpu_tables()) {
        if (!table->supported()) continue;
        check<float>(*table, scalar);
        check<double>(*table, scalar);
    }
    return failures ? 1 : 0;
}
