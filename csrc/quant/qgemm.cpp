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

void run(QgemmTask task, const KernelTable& table, DType dtype, Activation activation, int threads) {
    if (task.rows == 0) return;
    const bool exact16 = activation == Activation::exact && dtype == DType::bfloat16;
    if (exact16 && table.has_pairs && table.has_pairs()) activation = Activation::pairs;
    const auto form = static_cast<int>(activation), element = static_cast<int>(dtype);
    const std::int64_t columns = task.weight.rows, panel = table.panel_columns;
    const double work = static_cast<double>(task.rows) * static_cast<double>(columns * task.weight.columns);
    if (threads == 0 && work < kWorthSharing) threads = 1;
    AlignedBytes activations;
    if (const ActivationKernel rewrite = table.activations[form][element]) {
        activations = allocate_aligned(table.activation_bytes[form](task));
        const bool shared = task.rows * task.weight.columns >= kWorthSharing;
        parallel_for(task.rows, shared ? threads : 1,
                     [&](std::int64_t begin, std::int64_t end) { rewrite(task, begin, end, activations.get()); });
        task.activations = activations.get();
    }
    const QgemmKernel kernel = table.qgemm[form][element][format_index(task.weight.bits)];
    const std::int64_t scratch_bytes = task.panels ? 0 : table.scratch_bytes(task.weight);
    parallel_for((columns + panel - 1) / panel, threads, [&](std::int64_t begin, std::int64_t end) {
        const AlignedBytes scratch = allocate_aligned(scratch_bytes);
        kernel(task, begin * panel, std::min(end * panel, columns), scratch.get());
    });
}

}  // namespace

void qgemm(QgemmTask task, DType dtype, Activation activation, int threads) {
    check_task(task);
    run(task, active_table(), dtype, activation, threads);
}

void qgemm(QgemmTask task, const Prepared& prepared, DType dtype, Activation activation, int threads) {
    task.weight = prepared.weight;
    check_task(task);
    const KernelTable& table = active_table();
    require(prepared.isa == table.isa && prepared.layout == table.layout, "qgemm", "this weight was prepacked for ",
            isa_name(prepared.isa), " but the active instruction set is ", isa_name(table.isa),
            "; call prepack() again or use_isa(\"", isa_name(prepared.isa), "\")");
    task.panels = prepared.panels.get();
    run(task, table, dtype, activation, threads);
}

std::int64_t qgemm_cuda(const QgemmTask& task, DType dtype, Activation activation, cuda::Workspace workspace,
                        int device, std::uintptr_t stream) {
    check_task(task);
    return task.rows > 0 ? cuda::qgemm(task, dtype, activation, workspace, device, stream) : 0;
}

}  // namespace tqs
