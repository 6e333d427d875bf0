// Runs the elimination and both compensating loops over odd shapes, on buffers of exactly the promised size and with
// one thread and three, which must agree. Driven by tests/test_kernels_native.py.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "core/rng.h"
#include "guarded.h"
#include "quant/compensate.h"
#include "quant/eliminate.h"

namespace {

struct Shape {
    std::int64_t rows, columns, group_size;
};
constexpr Shape kShapes[] = {{1, 1, 0}, {2, 7, 32}, {13, 64, 32}, {5, 65, 0}, {30, 131, 128}, {3, 200, 64}};

template <class T>
T* as(const Guarded& bytes) {
    return reinterpret_cast<T*>(bytes.data());
}

// Codes by `method`: 0 shared order, 1 chosen order, 2 scales chosen on the way, 3 row by row.
std::vector<std::uint8_t> run(const Shape& shape, int bits, bool symmetric, int method, int threads) {
    const auto [rows, columns, group_size] = shape;
    const std::int64_t groups = tqs::packed_groups(columns, group_size);
    const Guarded weights(rows * columns * 4), matrix(columns * columns * 8), diagonal(columns * 8);
    const Guarded cost(columns * 8), sequence(columns * 8), order(columns * 8);
    const Guarded codes(rows * tqs::packed_row_bytes(columns, bits)), scales(rows * groups * 2), zeros(rows * groups);
    tqs::fill_normal(as<float>(weights), rows * columns, 1, 0, 0);
    std::vector<float> inputs(static_cast<std::size_t>(8 * columns));
    tqs::fill_normal(inputs.data(), 8 * columns, 2, 0, 0);
    for (std::int64_t i = 0; i < columns; ++i) {
        for (std::int64_t j = 0; j < columns; ++j) {
            double sum = i == j ? 0.5 : 0.0;
            for (int m = 0; m < 8; ++m) sum += inputs[m * columns + i] * inputs[m * columns + j];
            // For `run` by rows any symmetric positive matrix is an inverse.
            as<double>(matrix)[i * columns + j] = sum;
        }
        as<double>(cost)[i] = 1.0 + 0.1 * static_cast<double>(i % 7);
    }
    const tqs::PackedArrays packed{codes.data(), as<std::uint16_t>(scales), symmetric ? nullptr : zeros.data()};
    const tqs::MatrixView<const float> view{as<const float>(weights), rows, columns, columns};
    tqs::quantize(view, bits, group_size, tqs::Search::minmax, packed, threads);
    const tqs::CompensatedWeight weight{view, bits, group_size, packed};
    if (method == 3) {
        tqs::compensate_greedily(weight, as<const double>(matrix), threads);
    } else {
        for (std::int64_t i = 0; i < columns; ++i) as<std::int64_t>(sequence)[i] = columns - 1 - i;
        tqs::eliminate({as<double>(matrix), columns, method == 1 ? as<const double>(cost) : nullptr,
                        as<std::int64_t>(sequence), as<double>(diagonal), threads});
        for (std::int64_t i = 0; i < columns; ++i) {
            as<std::int64_t>(order)[i] = as<std::int64_t>(sequence)[columns - 1 - i];
        }
        tqs::compensate({weight, as<const double>(matrix), as<const std::int64_t>(order), method == 2 && group_size > 0,
                         tqs::Search::mse, as<const double>(diagonal), as<const double>(matrix), 1, threads});
    }
    return {codes.data(), codes.data() + rows * tqs::packed_row_bytes(columns, bits)};
}

}  // namespace

int main() {
    int failures = 0;
    for (const Shape& shape : kShapes) {
        for (const int bits : tqs::kFormatBits) {
            for (const bool symmetric : {true, false}) {
                for (int method = 0; method < 4; ++method) {
                    if (run(shape, bits, symmetric, method, 1) == run(shape, bits, symmetric, method, 3)) continue;
                    std::printf("threads differ: int%d method %d [%lld, %lld]\n", bits, method,
                                static_cast<long long>(shape.rows), static_cast<long long>(shape.columns));
                    ++failures;
                }
            }
        }
    }
    return failures ? 1 : 0;
}
