// Runs recurrent layers on every ISA over odd sizes on buffers of exactly the promised size, for AddressSanitizer and
// UndefinedBehaviorSanitizer (see sanitize.cpp). Each ISA must agree with the scalar one, three threads with one.
// Prints what went wrong and exits 1. Driven by tests/test_kernels_native.py.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "core/rng.h"
#include "guarded.h"
#include "quant/quantize.h"
#include "quant/recurrent.h"

namespace {

class Floats {
  public:
    Floats(std::int64_t count, std::uint64_t stream) : count_(count), bytes_(count * 4) {
        tqs::fill_normal(data(), count, 1, stream, 0);
    }
    float* data() const { return reinterpret_cast<float*>(bytes_.data()); }
    std::vector<float> values() const { return {data(), data() + count_}; }

  private:
    std::int64_t count_;
    Guarded bytes_;
};

// A random weight [rows, columns] at 4 bits, in two blocks of rows where there are two rows.
class Weight {
  public:
    Weight(std::int64_t rows, std::int64_t columns, std::uint64_t stream) {
        const std::int64_t half = rows / 2;
        for (const std::int64_t part : {half, rows - half}) {
            if (part == 0) continue;
            const Floats values(part * columns, stream);
            codes_.emplace_back(part * tqs::packed_row_bytes(columns, 4));
            scales_.emplace_back(static_cast<std::size_t>(part));
            tqs::quantize({values.data(), part, columns, columns}, 4, 0, tqs::Search::minmax,
                          {codes_.back().data(), scales_.back().data(), nullptr}, 1);
            views_.push_back({codes_.back().data(), scales_.back().data(), nullptr, part, columns, 0, 4});
        }
    }
    // Prepacked for the active ISA; one block rounds its activations to int8.
    tqs::RowBlocks blocks() {
        tqs::RowBlocks result;
        prepared_.clear();
        for (const tqs::PackedView& view : views_) {
            prepared_.push_back(tqs::prepack(view));
            result.push_back({prepared_.back().get(), result.empty() ? tqs::Activation::exact : tqs::Activation::int8});
        }
        return result;
    }

  private:
    std::vector<Guarded> codes_;
    std::vector<std::vector<std::uint16_t>> scales_;
    std::vector<tqs::PackedView> views_;
    std::vector<std::unique_ptr<tqs::Prepared>> prepared_;
};

struct Sizes {
    std::int64_t features, hidden, projected;
    std::vector<std::int64_t> batch_sizes;
};

const Sizes kSizes[] = {{1, 1, 0, {1}}, {3, 7, 0, {2, 2, 1}}, {5, 19, 0, {17, 9, 9, 3}}, {5, 19, 4, {5, 1}}};

std::vector<float> run(tqs::Recurrence recurrence, const Sizes& sizes, bool reverse, bool given, int threads) {
    const std::int64_t width = tqs::gate_count(recurrence) * sizes.hidden, batch = sizes.batch_sizes.front();
    const std::int64_t state = sizes.projected ? sizes.projected : sizes.hidden;
    std::int64_t rows = 0;
    for (const std::int64_t samples : sizes.batch_sizes) rows += samples;
    Weight input(width, sizes.features, 1), hidden(width, state, 2), projection(sizes.projected, sizes.hidden, 3);
    const std::int64_t columns = given ? width : sizes.features;
    const Floats x(rows * columns, 4), input_bias(width, 5), hidden_bias(width, 6);
    const Floats hidden_state(batch * state, 7), cell_state(batch * sizes.hidden, 8), out(rows * state, 9);
    tqs::run_recurrent({.recurrence = recurrence,
                        .size = sizes.hidden,
                        .reverse = reverse,
                        .batch_sizes = sizes.batch_sizes,
                        .x = x.data(),
                        .x_stride = columns,
                        .input = given ? tqs::RowBlocks{} : input.blocks(),
                        .input_bias = given ? nullptr : input_bias.data(),
                        .hidden = hidden.blocks(),
                        .hidden_bias = hidden_bias.data(),
                        .projection = projection.blocks(),
                        .hidden_state = hidden_state.data(),
                        .cell_state = recurrence == tqs::Recurrence::lstm ? cell_state.data() : nullptr,
                        .out = out.data()},
                       threads);
    std::vector<float> result = hidden_state.values();
    for (const Floats* part : {&cell_state, &out}) {
        for (const float value : part->values()) result.push_back(value);
    }
    return result;
}

// int8 activations are a step function of the state: a state that differs by rounding may be rounded the other way.
bool close(const std::vector<float>& got, const std::vector<float>& expected) {
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (!(std::fabs(got[i] - expected[i]) <= 0.05f * (1.0f + std::fabs(expected[i])))) return false;
    }
    return got.size() == expected.size();
}

}  // namespace

int main() {
    int failures = 0;
    for (int kind = 0; kind < tqs::kRecurrences; ++kind) {
        const auto recurrence = static_cast<tqs::Recurrence>(kind);
        for (const Sizes& sizes : kSizes) {
            if (sizes.projected && recurrence != tqs::Recurrence::lstm) continue;
            for (const bool reverse : {false, true}) {
                for (const bool given : {false, true}) {
                    tqs::use_isa("scalar");
                    const std::vector<float> expected = run(recurrence, sizes, reverse, given, 1);
                    for (const tqs::IsaRow& row : tqs::list_isas()) {
                        if (!row.available) continue;
                        tqs::use_isa(tqs::isa_name(row.isa));
                        const std::vector<float> got = run(recurrence, sizes, reverse, given, 1);
                        if (close(got, expected) && run(recurrence, sizes, reverse, given, 3) == got) continue;
                        ++failures;
                        std::printf("%s of %lld units on %s\n", tqs::recurrence_name(recurrence),
                                    static_cast<long long>(sizes.hidden), tqs::isa_name(row.isa));
                    }
                }
            }
        }
    }
    return failures ? 1 : 0;
}
