// What tests/test_cuda_emulated.py calls. Every function returns null, or what went wrong.
#include <stdexcept>
#include <string>

#include "cuda/device_properties.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "emulator.h"

using namespace tqs;
using namespace tqs::cuda;

namespace {

std::string message;

template <class Run>
const char* guarded(const Run& run) {
    try {
        run();
        return nullptr;
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
}

}  // namespace

extern "C" {

struct EmulatedWeight {
    const std::uint8_t* codes;
    const std::uint16_t* scales;
    const std::uint8_t* zeros;
    std::int64_t rows, columns, group_size;
    int bits;
};

struct EmulatedTask {
    const void* x;
    std::int64_t x_stride, rows;
    const float* bias;
    void* y;
    std::int64_t y_stride;
    int dtype, int8;
};

// What the device is, and what to change in the plan: 0 leaves it as it was chosen.
struct EmulatedDevice {
    int multiprocessors, shared_per_block, shared_per_multiprocessor;
    double bytes_per_cycle;
    int warpgroups, kernel, columns, splits;
};

struct EmulatedPlan {
    int kernel, columns, splits, output_blocks, row_blocks;
    std::int64_t workspace;
    double cycles;
};

static QgemmTask task_of(const EmulatedWeight* w, const EmulatedTask* t) {
    QgemmTask task{};
    task.x = t->x;
    task.x_stride = t->x_stride;
    task.rows = t->rows;
    task.weight = {w->codes, w->scales, w->zeros, w->rows, w->columns, w->group_size, w->bits};
    task.bias = t->bias;
    task.y = t->y;
    task.y_stride = t->y_stride;
    return task;
}

void* emulated_allocate(std::int64_t bytes) {
    return emulator::allocate(static_cast<std::size_t>(bytes));
}
void emulated_release(void* memory, std::int64_t bytes) {
    emulator::release(memory, static_cast<std::size_t>(bytes));
}
void emulated_reverse(int reversed) {
    emulator::reversed = reversed != 0;
}
void emulated_shared_limit(std::int64_t bytes) {
    emulator::shared_limit = static_cast<std::size_t>(bytes);
}
void emulated_capability(int major) {
    emulator::capability = major;
}
std::int64_t emulated_bank_conflicts() {
    return emulator::take_bank_conflicts();
}

std::int64_t emulated_weight_bytes(const EmulatedWeight* w) {
    return weight_layout({w->codes, w->scales, w->zeros, w->rows, w->columns, w->group_size, w->bits}).bytes;
}

const char* emulated_prepack(const EmulatedWeight* w, unsigned char* out) {
    return guarded([&] {
        prepack_weight({w->codes, w->scales, w->zeros, w->rows, w->columns, w->group_size, w->bits}, out, nullptr);
    });
}

const char* emulated_dequantize(const EmulatedWeight* w, float* out) {
    return guarded([&] {
        dequantize_weight({w->codes, w->scales, w->zeros, w->rows, w->columns, w->group_size, w->bits}, out, nullptr);
    });
}

static cuda::Device device_of(const EmulatedDevice* d) {
    return {d->multiprocessors, d->shared_per_block, d->shared_per_multiprocessor, d->bytes_per_cycle,
            d->warpgroups != 0};
}

static Plan plan_of(const QgemmTask& task, const EmulatedTask* t, const EmulatedDevice* d) {
    return choose_plan(problem_of(task, static_cast<DType>(t->dtype), t->int8 != 0), device_of(d),
                       {static_cast<Kernel>(d->kernel), d->columns, d->splits});
}

EmulatedPlan emulated_plan(const EmulatedWeight* w, const EmulatedTask* t, const EmulatedDevice* d) {
    const Plan plan = plan_of(task_of(w, t), t, d);
    return {static_cast<int>(plan.kernel),
            plan.columns,
            plan.splits,
            plan.output_blocks,
            plan.row_blocks,
            plan.workspace,
            plan.cycles};
}

double emulated_bytes_per_cycle(int bus_bits, int memory_clock, int clock) {
    return bytes_per_cycle(bus_bits, memory_clock, clock);
}

// `prepacked` and `workspace` (its counters zero) as the plan wants them.
const char* emulated_multiply(const EmulatedWeight* w, const unsigned char* prepacked, const EmulatedTask* t,
                              const EmulatedDevice* d, unsigned char* workspace) {
    return guarded([&] {
        QgemmTask task = task_of(w, t);
        task.panels = prepacked;
        const auto dtype = static_cast<DType>(t->dtype);
        const Plan plan = plan_of(task, t, d);
        if (plan.kernel == Kernel::simple) {
            if (t->int8) throw std::runtime_error("no kernel takes this");
            return multiply_simple(task, dtype, device_of(d), nullptr);
        }
        multiply_prepacked(task, plan, dtype, t->int8 != 0, workspace, nullptr);
    });
}
}
