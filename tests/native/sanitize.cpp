// Runs every CPU kernel over odd shapes on buffers of exactly the promised size, so that AddressSanitizer sees one byte
// too many, and at odd addresses, so that UndefinedBehaviorSanitizer sees an aligned access that was not promised.
// Each ISA must agree with the scalar one. Prints what went wrong and exits 1. Driven by tests/test_kernels_native.py.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "core/half.h"
#include "core/rng.h"
#include "quant/dequantize.h"
#include "quant/prepared.h"
#include "quant/qgemm.h"
#include "quant/quantize.h"

namespace {

// `size` bytes ending exactly at the end of a heap block and starting at an odd address.
class Bytes {
  public:
    explicit Bytes(std::int64_t size) : size_(size), block_(new std::uint8_t[static_cast<std::size_t>(size) + 1]) {
        std::memset(block_.get(), 0, static_cast<std::size_t>(size) + 1);
    }
    std::uint8_t* data() { return block_.get() + 1; }
    bool operator==(const Bytes& other) const {
        return size_ == other.size_ &&
               std::memcmp(block_.get(), other.block_.get(), static_cast<std::size_t>(size_) + 1) == 0;
    }

  private:
    std::int64_t size_;
    std::unique_ptr<std::uint8_t[]> block_;
};

struct Shape {
    std::int64_t m, n, k;
};

constexpr Shape kShapes[] = {{1, 1, 1},   {1, 3, 2},     {2, 15, 7},  {6, 16, 8},  {7, 17, 9},
                             {8, 32, 16}, {9, 33, 31},   {5, 40, 33}, {3, 31, 65}, {13, 5, 127},
                             {2, 64, 64}, {17, 47, 130}, {1, 2, 257}};

int failures = 0;

void expect(bool holds, const char* what, int bits, std::int64_t group_size, Shape shape, const char* isa) {
    if (holds) return;
    ++failures;
    std::printf("%s: int%d group %lld [%lld, %lld, %lld] on %s\n", what, bits, static_cast<long long>(group_size),
                static_cast<long long>(shape.m), static_cast<long long>(shape.n), static_cast<long long>(shape.k), isa);
}

std::vector<float> multiply(const tqs::PackedView& packed, const tqs::Prepared* prepared, Shape shape, tqs::DType dtype,
                            tqs::Activation activation, const std::vector<float>& values, const float* bias) {
    const std::int64_t item = dtype == tqs::DType::float32 ? 4 : 2;
    const std::int64_t x_stride = shape.k + 3, y_stride = shape.n + 1;
    Bytes x(((shape.m - 1) * x_stride + shape.k) * item), y(((shape.m - 1) * y_stride + shape.n) * item);
    for (std::int64_t m = 0; m < shape.m; ++m) {
        for (std::int64_t k = 0; k < shape.k; ++k) {
            const float value = values[static_cast<std::size_t>(m * shape.k + k)];
            const std::uint16_t narrow = tqs::float_to_bfloat16(value);
            std::uint8_t* at = x.data() + (m * x_stride + k) * item;
            if (item == 4) {
                std::memcpy(at, &value, 4);
            } else {
                std::memcpy(at, &narrow, 2);
            }
        }
    }
    const tqs::QgemmTask task{x.data(), x_stride, shape.m, packed, nullptr, bias, y.data(), y_stride, nullptr};
    if (prepared) {
        tqs::qgemm(task, *prepared, dtype, activation, 3);
    } else {
        tqs::qgemm(task, dtype, activation, 3);
    }
    std::vector<float> result;
    for (std::int64_t m = 0; m < shape.m; ++m) {
        for (std::int64_t n = 0; n < shape.n; ++n) {
            float value;
            std::uint16_t narrow;
            const std::uint8_t* at = y.data() + (m * y_stride + n) * item;
            if (item == 4) {
                std::memcpy(&value, at, 4);
            } else {
                std::memcpy(&narrow, at, 2);
                value = tqs::bfloat16_to_float(narrow);
            }
            result.push_back(value);
        }
    }
    return result;
}

bool close(const std::vector<float>& got, const std::vector<float>& expected, tqs::DType dtype) {
    const float tolerance = dtype == tqs::DType::float32 ? 1e-4f : 2e-2f;
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (!(std::fabs(got[i] - expected[i]) <= tolerance * (4.0f + std::fabs(expected[i])))) return false;
    }
    return got.size() == expected.size();
}

struct Packed {
    Bytes codes;
    std::vector<std::uint16_t> scales;
    Bytes zeros;

    bool operator==(const Packed& other) const {
        return codes == other.codes && scales == other.scales && zeros == other.zeros;
    }
};

Packed pack(const std::vector<float>& weights, int bits, std::int64_t group_size, bool symmetric, Shape shape) {
    const std::int64_t groups = shape.n * tqs::packed_groups(shape.k, group_size);
    Packed packed{Bytes(shape.n * tqs::packed_row_bytes(shape.k, bits)),
                  std::vector<std::uint16_t>(static_cast<std::size_t>(groups)), Bytes(symmetric ? 0 : groups)};
    tqs::quantize({weights.data(), shape.n, shape.k, shape.k}, bits, group_size, tqs::Search::mse,
                  {packed.codes.data(), packed.scales.data(), symmetric ? nullptr : packed.zeros.data()}, 2);
    return packed;
}

void check(int bits, std::int64_t group_size, bool symmetric, Shape shape) {
    std::vector<float> weights(static_cast<std::size_t>(shape.n * shape.k)),
        x(static_cast<std::size_t>(shape.m * shape.k));
    std::vector<float> bias(static_cast<std::size_t>(shape.n));
    tqs::fill_normal(weights.data(), shape.n * shape.k, 1, 0, 0);
    tqs::fill_normal(x.data(), shape.m * shape.k, 1, 1, 0);
    tqs::fill_uniform(bias.data(), shape.n, 1, 2, 0);

    tqs::use_isa("scalar");
    Packed stored = pack(weights, bits, group_size, symmetric, shape);
    std::uint8_t* stored_zeros = symmetric ? nullptr : stored.zeros.data();
    const tqs::PackedView packed{
        stored.codes.data(), stored.scales.data(), stored_zeros, shape.n, shape.k, group_size, bits};

    std::vector<float> values(weights.size());
    tqs::dequantize(packed, {values.data(), shape.n, shape.k, shape.k}, 1);
    for (const tqs::IsaRow& row : tqs::list_isas()) {
        if (!row.available) continue;
        const char* isa = tqs::isa_name(row.isa);
        tqs::use_isa(isa);
        expect(pack(weights, bits, group_size, symmetric, shape) == stored, "quantize", bits, group_size, shape, isa);
        std::vector<float> decoded(weights.size());
        tqs::dequantize(packed, {decoded.data(), shape.n, shape.k, shape.k}, 2);
        expect(decoded == values, "dequantize", bits, group_size, shape, isa);
        const auto prepared = tqs::prepack(packed);
        for (const tqs::DType dtype : {tqs::DType::float32, tqs::DType::bfloat16}) {
            for (const tqs::Activation activation : {tqs::Activation::exact, tqs::Activation::int8}) {
                const auto run = [&](const tqs::Prepared* weight) {
                    return multiply(packed, weight, shape, dtype, activation, x, bias.data());
                };
                tqs::use_isa("scalar");
                const std::vector<float> expected = run(nullptr);
                tqs::use_isa(isa);
                const std::vector<float> got = run(nullptr);
                const bool exact = activation == tqs::Activation::exact;
                expect(exact ? close(got, expected, dtype) : got == expected, exact ? "qgemm" : "int8 qgemm", bits,
                       group_size, shape, isa);
                expect(run(prepared.get()) == got, "prepacked qgemm", bits, group_size, shape, isa);
            }
        }
    }
}

}  // namespace

int main() {
    for (const int bits : tqs::kFormatBits) {
        for (const std::int64_t group_size : {0, 32, 64, 128}) {
            for (const bool symmetric : {true, false}) {
                for (const Shape& shape : kShapes) check(bits, group_size, symmetric, shape);
            }
        }
    }
    return failures ? 1 : 0;
}
