// One product on the AVX2 kernels, `repeats` times: what bench_instructions.py counts. The matrix is random but the
// same in every run; packing, prepacking and everything else happens once, whatever the repeats.
#include "cpu/panel/qgemm.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/aligned.h"
#include "cpu/avx2/vector.h"
#include "cpu/panel/activations.h"

namespace {

using tqs::Activation;
using tqs::DType;
using tqs::avx2::Vector;

constexpr Activation kActivation = COUNT_INT8 ? Activation::int8 : Activation::exact;
constexpr int kBits = COUNT_BITS;

}  // namespace

int main(int count, char** arguments) {
    if (count != 6) {
        std::fprintf(stderr, "usage: %s N K M group_size repeats\n", arguments[0]);
        return 2;
    }
    const std::int64_t rows = std::atol(arguments[1]), columns = std::atol(arguments[2]), m = std::atol(arguments[3]);
    const std::int64_t group_size = std::atol(arguments[4]);
    const auto size = [](std::int64_t n) {
        return static_cast<std::size_t>(n);
    };
    std::vector<std::uint8_t> codes(size(rows * tqs::packed_row_bytes(columns, kBits)));
    for (auto& code : codes) code = static_cast<std::uint8_t>(std::rand());
    std::vector<std::uint16_t> scales(size(rows * tqs::packed_groups(columns, group_size)), std::uint16_t{0x3C00});
    std::vector<float> x(size(m * columns)), y(size(m * rows));
    for (auto& value : x) value = static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f;

    const tqs::PackedView weight{codes.data(), scales.data(), nullptr, rows, columns, group_size, kBits};
    const tqs::AlignedBytes panels = tqs::allocate_aligned(tqs::panel::prepacked_bytes<Vector>(weight));
    tqs::panel::prepack<Vector, kBits>(weight, panels.get());
    tqs::QgemmTask task{x.data(), columns, m, weight, panels.get(), nullptr, y.data(), rows, nullptr};
    const tqs::AlignedBytes inputs = tqs::allocate_aligned(tqs::panel::activation_bytes<kActivation>(task));
    task.activations = inputs.get();
    for (long repeat = std::atol(arguments[5]); repeat > 0; --repeat) {
        if constexpr (kActivation == Activation::int8) {
            tqs::panel::quantize_rows<Vector, DType::float32>(task, 0, m, inputs.get());
        } else {
            tqs::panel::exact_rows<Vector, DType::float32>(task, 0, m, inputs.get());
        }
        tqs::panel::qgemm<Vector, kActivation, DType::float32, kBits>(task, 0, rows, nullptr);
    }
    std::printf("%g\n", static_cast<double>(y[0]));
}
