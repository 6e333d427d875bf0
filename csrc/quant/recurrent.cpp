#include "quant/recurrent.h"

#include <algorithm>

#include "backend/backend.h"
#include "core/check.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// Multiply-adds that repay handing samples to another thread, and the samples it should have: fewer leave the product
// waiting for the decoding of its weights, and those threads do better by sharing the columns of a step.
constexpr std::int64_t kWorthSharing = 1 << 18, kSamplesOfThread = 8;

class Floats {
  public:
    explicit Floats(std::int64_t count) : bytes_(allocate_aligned(count * static_cast<std::int64_t>(sizeof(float)))) {}
    float* data() const { return reinterpret_cast<float*>(bytes_.get()); }

  private:
    AlignedBytes bytes_;
};

void check_weight(const char* name, const RowBlocks& weight, std::int64_t rows, std::int64_t columns) {
    require(row_count(weight) == rows, "recurrent", "expected ", name, " with ", rows, " rows, got ",
            row_count(weight));
    for (const RowBlock& block : weight) {
        require(block.prepared->weight.columns == columns, "recurrent", "expected ", name, " with ", columns,
                " columns, got ", block.prepared->weight.columns);
    }
}

class Recurrent {
  public:
    Recurrent(const RecurrentTask& task, int threads)
        : task_(task),
          threads_(threads),
          width_(gate_count(task.recurrence) * task.size),
          state_size_(task.projection.empty() ? task.size : row_count(task.projection)) {
        check();
        for (const std::int64_t samples : task.batch_sizes) rows_ += samples;
    }

    void run() const {
        const std::int64_t batch = task_.batch_sizes.front();
        if (batch == 0) return;
        const float* x = task_.x;
        std::int64_t x_stride = task_.x_stride;
        const Floats projected(task_.input.empty() ? 0 : rows_ * width_);
        if (!task_.input.empty()) {
            multiply(task_.input, x, x_stride, rows_, task_.input_bias, projected.data(), width_, threads_);
            x = projected.data();
            x_stride = width_;
        }
        const std::int64_t work = rows_ * width_ * state_size_;
        const int pieces = static_cast<int>(
            std::clamp<std::int64_t>(batch / kSamplesOfThread, 1, worthwhile_threads(work, kWorthSharing, threads_)));
        parallel_for(batch, pieces,
                     [&](std::int64_t begin, std::int64_t end) { run_samples(x, x_stride, begin, end); });
    }

  private:
    void check() const {
        const auto expect = [](bool holds, const auto&... parts) {
            require(holds, "recurrent", parts...);
        };
        expect(task_.size >= 1, "expected at least one hidden unit, got ", task_.size);
        expect(!task_.batch_sizes.empty() && task_.batch_sizes.back() >= 0 &&
                   std::is_sorted(task_.batch_sizes.rbegin(), task_.batch_sizes.rend()),
               "expected at least one time step, of sizes that never grow");
        const bool lstm = task_.recurrence == Recurrence::lstm;
        expect(lstm || task_.projection.empty(), "only an LSTM has a projected state");
        expect(task_.batch_sizes.front() == 0 || (task_.x && task_.hidden_state && (task_.cell_state || !lstm)),
               "x and the states must not be null");
        if (!task_.input.empty()) check_weight("W_ih", task_.input, width_, task_.input[0].prepared->weight.columns);
        check_weight("W_hh", task_.hidden, width_, state_size_);
        if (!task_.projection.empty()) check_weight("W_hr", task_.projection, state_size_, task_.size);
        const std::int64_t least = task_.input.empty() ? width_ : task_.input[0].prepared->weight.columns;
        expect(task_.x_stride >= least, "rows of x overlap: expected a stride >= ", least, ", got ", task_.x_stride);
    }

    // All steps of samples [begin, end); x holds the input projections [R, G].
    void run_samples(const float* x, std::int64_t x_stride, std::int64_t begin, std::int64_t end) const {
        const bool projects = !task_.projection.empty();
        const std::int64_t samples = end - begin, size = task_.size;
        const Floats scratch(samples * (width_ + (projects ? size : 0)));
        float* const h = scratch.data();
        float* const state = task_.hidden_state + begin * state_size_;
        float* const hidden = projects ? h + samples * width_ : state;  // of the gates
        float* const cell = task_.cell_state ? task_.cell_state + begin * size : nullptr;
        const GatesKernel gates = active_table().gates[static_cast<int>(task_.recurrence)];
        const auto steps = static_cast<std::int64_t>(task_.batch_sizes.size());
        std::int64_t row = task_.reverse ? rows_ : 0;
        for (std::int64_t step = 0; step < steps; ++step) {
            const auto t = static_cast<std::size_t>(task_.reverse ? steps - 1 - step : step);
            const std::int64_t present = task_.batch_sizes[t];
            if (task_.reverse) row -= present;
            // The others have ended and their state stays, or, in reverse, have not begun and hold their start.
            const std::int64_t running = std::min(present, end) - begin;
            if (running > 0) {
                multiply(task_.hidden, state, state_size_, running, task_.hidden_bias, h, width_, threads_);
                gates({x + (row + begin) * x_stride, x_stride, h, width_, hidden, size, cell, size, size}, 0, running);
                if (projects) multiply(task_.projection, hidden, size, running, nullptr, state, state_size_, threads_);
                if (task_.out) std::copy_n(state, running * state_size_, task_.out + (row + begin) * state_size_);
            }
            if (!task_.reverse) row += present;
        }
    }

    const RecurrentTask& task_;
    int threads_;
    std::int64_t width_;       // G
    std::int64_t state_size_;  // P
    std::int64_t rows_ = 0;    // R
};

}  // namespace

void run_recurrent(const RecurrentTask& task, int threads) {
    Recurrent(task, threads).run();
}

}  // namespace tqs
