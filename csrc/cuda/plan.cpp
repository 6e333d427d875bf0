#include "cuda/plan.h"

#include <algorithm>
#include <initializer_list>

#include "cuda/geometry.h"
#include "cuda/layout.h"

namespace tqs::cuda {
namespace {

// The model. A block spends per unit of K the longest of
//
//   memory   its bytes over its share of the bandwidth: blocks that are resident together share it. Weights come from
//            device memory once; again for further row blocks, and x always, from L2, at kCacheRate per multiprocessor;
//            a cluster reads its x once;
//   tensor   kProductCycles per instruction of a warp, kAtomCycles per column of one of a warpgroup, again shared;
//   latency  kLatency over the units it has on their way;
//
// and kStart before its first unit. Blocks run in waves of as many as are resident. Splitting K adds kCombine and two
// passes of the partial sums through L2. No figure is fitted: latency and rates are those that vendors and published
// microbenchmarks state for sm_80 to sm_90, rounded; no GPU has confirmed the choices yet.
constexpr double kProductCycles = 2;  // m16n8k16 at 1024 multiply-adds a cycle (sm_80); m16n8k32 has twice the rate
constexpr double kAtomCycles = 0.5;   // m64nNk16 at 2048 multiply-adds a cycle; m64nNk32 has twice the rate
constexpr double kLatency = 800;
constexpr double kStart = 1500;
constexpr double kCombine = 2000;
constexpr double kArrange = 3000;  // a launch
constexpr double kCacheRate = 28;  // bytes per cycle of L2 and multiprocessor

constexpr int kReserved = 1024;  // bytes of shared memory that CUDA keeps for itself in every block
constexpr int kMostSplits = 16;
constexpr std::int64_t kUnitsPerSplit = 4;  // below, a split is mostly start-up
constexpr std::int64_t kMostGridRows = 65535;

int group_argument(const Problem& problem) {
    const auto group = static_cast<int>(problem.weight.group_size);
    return group == 0 && !problem.int8 ? kUnitInputs : group;
}

bool order_is_fixed(const Problem& problem) {
    return problem.int8 && problem.weight.group_size != 0;
}

struct Shape {
    int tiles_per_block, columns, resident, units_ahead;
};

Shape shape_of(const Problem& problem, const Device& device, Kernel kernel, int columns, int shared) {
    const int by_memory = std::max(1, device.shared_per_multiprocessor / (shared + kReserved));
    if (kernel == Kernel::gemv) return {1, columns, std::min(2, by_memory), kGemvAhead * kGemvWarps};
    if (kernel == Kernel::warpgroups) {
        const int stages =
            warpgroups_stages(problem.int8, stored_bits(problem.weight.bits), group_argument(problem), columns);
        return {kWarpgroupsTiles, columns, 1, stages - 1};
    }
    // 128 threads of at most 100 (16 columns), 165 and 205 registers as nvcc 13.0 counts them, of 65536.
    const int by_registers = columns > 32 ? 2 : columns > 16 ? 3 : 4;
    return {tiles_per_block(problem.int8, group_argument(problem)), columns, std::min(by_registers, by_memory),
            tiles_stages(columns) - 1};
}

double model(const Problem& problem, const Device& device, const Plan& plan, const Shape& shape) {
    const WeightLayout layout = weight_layout(problem.weight);
    const std::int64_t blocks = std::int64_t{plan.output_blocks} * plan.row_blocks * plan.splits;
    const std::int64_t slots = std::int64_t{device.multiprocessors} * shape.resident;
    const auto waves = static_cast<double>(divide_up(blocks, slots));
    const auto together =
        static_cast<double>(std::min<std::int64_t>(shape.resident, divide_up(blocks, device.multiprocessors)));

    const double weights = shape.tiles_per_block * kTileRows * kUnitInputs * plan.bits / 8.0;
    const double x =
        static_cast<double>(std::min<std::int64_t>(shape.columns, problem.rows)) * kUnitInputs * (problem.int8 ? 1 : 2);
    const double from_memory = weights / plan.row_blocks;
    // Resident blocks of gemv walk through K together, and find x in L1 when one of them has read it.
    const double sharing = plan.kernel == Kernel::gemv         ? together
                           : plan.kernel == Kernel::warpgroups ? kClusterBlocks
                                                               : 1;
    const double from_cache = weights - from_memory + x / sharing;
    const double memory = (from_memory / device.bytes_per_cycle + from_cache / kCacheRate) * together;
    const double steps = problem.int8 ? 4 : 8;
    const double tensor =
        together * steps *
        (plan.kernel == Kernel::warpgroups ? shape.tiles_per_block / 4.0 * shape.columns * kAtomCycles
                                           : shape.tiles_per_block * (shape.columns / 8.0) * kProductCycles);
    const double latency = kLatency / shape.units_ahead;
    const double per_unit = std::max({memory, tensor, latency});

    const auto units = static_cast<double>(divide_up(layout.units, plan.splits));
    double cycles = waves * (units * per_unit + kStart);
    if (plan.splits > 1) {
        const double bytes = static_cast<double>(plan.workspace - plan.partials) * 2;
        cycles += kCombine + bytes / (kCacheRate * device.multiprocessors);
    }
    if (plan.kernel == Kernel::warpgroups && !problem.int8) {
        const auto bytes = static_cast<double>(2 * arranged_bytes(problem.weight, problem.rows));
        cycles += kArrange + bytes / (kCacheRate * device.multiprocessors);
    }
    return cycles;
}

// Lays out the workspace; every split's sums of every block are kept.
void place(const Problem& problem, Plan& plan, const Shape& shape) {
    plan.activations = pad(kCounters * 4, kAlignment);
    const bool arranged = plan.kernel == Kernel::warpgroups;
    const std::int64_t rows = problem.int8 ? activation_layout(problem.weight, problem.rows, arranged).bytes
                              : arranged   ? arranged_bytes(problem.weight, problem.rows)
                                           : 0;
    plan.partials = plan.activations + pad(rows, kAlignment);
    const std::int64_t sums = std::int64_t{shape.tiles_per_block} * kTileRows * shape.columns;
    const std::int64_t blocks = std::int64_t{plan.output_blocks} * plan.row_blocks;
    plan.workspace = plan.partials + (plan.splits > 1 ? blocks * plan.splits * sums * 4 : 0);
    if (plan.splits == 1 && rows == 0) plan.workspace = 0;
}

}  // namespace

Problem problem_of(const QgemmTask& task, DType dtype, bool int8) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(task.x) % 16 == 0 && task.x_stride % 8 == 0;
    return {task.weight, task.rows, dtype, int8, aligned};
}

bool supports_prepacked(const Problem& problem) {
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    if (problem.weight.rows > kMost || problem.weight.columns > kMost || problem.rows > kMost) return false;
    if (problem.int8) return problem.weight.group_size != 0 || problem.weight.columns <= kSpan;
    return problem.dtype != DType::float32 && problem.aligned && problem.weight.columns % 8 == 0;
}

bool supports_gemv(const Problem& problem) {
    return supports_prepacked(problem) &&
           problem.rows <= (order_is_fixed(problem) ? kMostGridRows * kGemvRows : kGemvRows);
}

bool supports_tiles(const Problem& problem) {
    return supports_prepacked(problem) && problem.rows <= kMostGridRows * 16;
}

bool supports_warpgroups(const Problem& problem, const Device& device) {
    // Their instructions have 64 columns: of 16 rows or fewer most would be padding.
    return device.warpgroups && supports_prepacked(problem) && problem.rows > 16 && problem.rows <= kMostGridRows * 64;
}

Plan choose_plan(const Problem& problem, const Device& device, const Wanted& wanted) {
    Plan best;
    const std::int64_t units = weight_layout(problem.weight).units;
    const auto consider = [&](Kernel kernel, int columns, int shared) {
        if (shared > device.shared_per_block || (wanted.columns != 0 && wanted.columns != columns)) return;
        if (wanted.kernel != Kernel::simple && wanted.kernel != kernel) return;
        const Shape shape = shape_of(problem, device, kernel, columns, shared);
        Plan plan{.kernel = kernel, .bits = stored_bits(problem.weight.bits), .group = group_argument(problem)};
        plan.columns = columns;
        plan.output_blocks =
            static_cast<int>(divide_up(problem.weight.rows, std::int64_t{shape.tiles_per_block} * kTileRows));
        if (kernel == Kernel::warpgroups)
            plan.output_blocks = static_cast<int>(pad(plan.output_blocks, kClusterBlocks));
        plan.row_blocks = static_cast<int>(divide_up(problem.rows, shape.columns));
        const bool alone = order_is_fixed(problem) || std::int64_t{plan.output_blocks} * plan.row_blocks > kCounters;
        for (plan.splits = 1; plan.splits <= (alone ? 1 : kMostSplits); ++plan.splits) {
            if (wanted.splits != 0 && (wanted.splits != plan.splits || wanted.splits > units)) continue;
            if (wanted.splits == 0 && plan.splits > 1 && units / plan.splits < kUnitsPerSplit) break;
            place(problem, plan, shape);
            plan.cycles = model(problem, device, plan, shape);
            if (best.kernel == Kernel::simple || plan.cycles < best.cycles) best = plan;
        }
    };
    const int group = group_argument(problem), bits = stored_bits(problem.weight.bits);
    if (supports_gemv(problem)) {
        for (int columns = kGemvRows; columns <= gemv_columns(problem.int8, group); columns += kGemvRows) {
            consider(Kernel::gemv, columns, gemv_shared_bytes(problem.int8, group, columns));
        }
    }
    if (supports_tiles(problem)) {
        for (const int columns : {16, 32, 64}) {
            consider(Kernel::tiles, columns, tiles_shared_bytes(problem.int8, bits, group, columns));
        }
    }
    if (supports_warpgroups(problem, device)) {
        for (const int columns : {64, 128}) {
            consider(Kernel::warpgroups, columns, warpgroups_shared_bytes(problem.int8, bits, group, columns));
        }
    }
    return best;
}

}  // namespace tqs::cuda
