#include "quant/qgemm.h"

#include <algorithm>

#include "backend/backend.h"
#include "core/aligned.h"
#include "core/check.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// Below this many multiply-adds waking a sleeping thread (some 10 us) costs more than it saves.
constexpr double kWorthSharing = 1 << 18;

void check_task(const QgemmTask& task) {
    check_packed("qgemm", task.weight);
    require(task.rows >= 0, "qgemm", "expected rows >= 0, got ", task.rows);
    require(task.rows == 0 || (task.x && task.y), "qgemm", "x and y must not be null");
    require(task.rows <= 1 || task.y_stride >= task.weight.rows, "qgemm",
            "rows of y overlap: expected a stride >= ", task.weight.rows, ", got ", task.y_stride);
}

void run(const QgemmTask& task, const KernelTable& table, DType dtype, int threads) {
    if (task.rows == 0) return;
    const std::int64_t columns = task.weight.rows;
    const std::int64_t panel = table.panel_columns;
    const double work = static_cast<double>(task.rows) * static_cast<double>(columns * task.weight.columns);
    const QgemmKernel kernel = table.qgemm[static_cast<int>(dtype)][format_index(task.weight.bits)];
    const std::int64_t scratch_bytes =
        table.scratch_floats(task.weight.columns) * static_cast<std::int64_t>(sizeof(float));
    parallel_for((columns + panel - 1) / panel, threads == 0 && work < kWorthSharing ? 1 : threads,
                 [&](std::int64_t begin, std::int64_t end) {
                     const AlignedBytes scratch = allocate_aligned(scratch_bytes);
                     kernel(task, begin * panel, std::min(end * panel, columns),
                            reinterpret_cast<float*>(scratch.get()));
                 });
}

}  // namespace

void qgemm(const QgemmTask& task, DType dtype, int threads) {
    check_task(task);
    run(task, active_table(), dtype, threads);
}

void qgemm(QgemmTask task, const Prepared& prepared, DType dtype, int threads) {
    task.weight = prepared.weight;
    check_task(task);
    const KernelTable& table = active_table();
    require(prepared.isa == table.isa && prepared.layout == table.layout, "qgemm", "this weight was prepacked for ",
            isa_name(prepared.isa), " but the active instruction set is ", isa_name(table.isa),
            "; call prepack() again or use_isa(\"", isa_name(prepared.isa), "\")");
    task.panels = prepared.panels.get();
    run(task, table, dtype, threads);
}

void qgemm_cuda(const QgemmTask& task, DType dtype, int device, std::uintptr_t stream) {
    check_task(task);
    if (task.rows > 0) cuda::qgemm(task, dtype, device, stream);
}

}  // namespace tqs
