// Reductions, softmax, normalisation, scans and top-k on the GPU: a shape for each row or output, and the launch. What
// decides the shape (and so the order of sums) are sizes and strides within a sample, never how many lanes or samples
// there are.
#include <type_traits>

#include "cuda/device/normalize.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/scan.cuh"
#include "cuda/device/softmax.cuh"
#include "cuda/device/top_k.cuh"
#include "cuda/program/kernels.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {
namespace {

template <Shape shape>
using InShape = std::integral_constant<Shape, shape>;
template <int rounds>
using Rounds = std::integral_constant<int, rounds>;

unsigned blocks_of(std::uint32_t teams, Shape shape) {
    const auto each = static_cast<std::uint32_t>(teams_per_block(shape));
    return (teams + each - 1) / each;
}

std::size_t whole(std::size_t bytes) {
    return (bytes + 127) / 128 * 128;
}

// Sums and choices among at most so many elements are a warp's; more, which would keep it busy for 16 rounds, a
// block's.
constexpr std::int64_t kWarpTerms = 512;

// ------------------------------------------------------------------------------------------------ whole rows

// Rows of the last `axes` axes, a warp or a block each.
struct Rows {
    RowArgument argument;
    bool vectors;  // rows lie as vectors do
};

template <class T>
Rows rows_of(const char* name, const Extent& extent, const Operand& x, const Operand& out, int axes) {
    constexpr int kVector = kRowVector<T>;
    const Operand* const operands[] = {&x, &out};
    Nest<2> rows, elements;
    rows.add(extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < x.rank; ++axis) {
        Nest<2>& nest = axis < x.rank - axes ? rows : elements;
        nest.add(x.sizes[axis], 2, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    const std::int64_t count = elements.elements();
    const bool wide = count >= 32 * kVector;
    bool vectors = wide && elements.rank() == 1;
    for (int k = 0; k < 2; ++k) {
        vectors = vectors && has_vectors<T>(*operands[k]) && elements.vectors(k, kVector) &&
                  rows.multiples(k, kVector) && starts_vectors(*operands[k], extent.lanes, kVector);
    }
    return {{.rows = rows.loops(name, 2),
             .elements = elements.loops(name, 2),
             .x = lanes_of(on_device(x, extent.lanes)),
             .out = lanes_of(on_device(out, extent.lanes)),
             .tangent = extent.tangent,
             .kept = count <= kKeptRow,
             .vector = wide ? static_cast<std::uint32_t>(kVector) : 1u,
             .lanes = extent.lanes,
             .tangents_each = 0},
            vectors};
}

// `run(shape, rounds, argument, grid, shared bytes)` launches.
template <class T, class Run>
void launch_rows(const Rows& rows, const Run& run) {
    const std::uint32_t count = rows.argument.elements.count;
    const auto in_shape = [&](auto shape) {
        RowArgument argument = rows.argument;
        const unsigned blocks = blocks_of(argument.rows.count, shape.value);
        unsigned lanes = grid_lanes(argument.lanes);
        if (argument.tangent) {
            const TangentShare share = TangentShare::of(argument.lanes, blocks);
            argument.tangents_each = share.each;
            lanes = share.blocks;
        }
        const Grid grid{blocks, lanes, 1};
        const std::uint32_t step = argument.vector * Team<shape.value>::kMembers, rounds = (count + step - 1) / step;
        const auto hold = [&](auto most) {
            run(shape, most, argument, grid, whole(team_bytes(shape.value)));
        };
        if constexpr (kRowVector<T> > 1) {
            if (rows.vectors && rounds == 1 && shape.value == Shape::block) return hold(Rounds<1>{});
            if (rows.vectors && rounds <= kMostRounds) return hold(Rounds<kMostRounds>{});
        }
        const std::size_t kept = argument.kept ? rounds * step * sizeof(T) * teams_per_block(shape.value) : 0;
        run(shape, Rounds<0>{}, argument, grid, whole(team_bytes(shape.value) + kept));
    };
    if (count <= kWarpRow<T>) {
        in_shape(InShape<Shape::warp>{});
    } else {
        in_shape(InShape<Shape::block>{});
    }
}

template <class T>
void softmax_kernel(const SoftmaxTask& task) {
    launch_rows<T>(rows_of<T>("softmax", task.extent, task.x, task.out, 1),
                   [&](auto shape, auto rounds, const RowArgument& row, Grid grid, std::size_t shared) {
                       launch("softmax", softmax<T, shape.value, rounds.value>, grid, team_threads(shape.value), shared,
                              SoftmaxArgument{row, task.logarithm});
                   });
}

template <class T>
void normalize_kernel(const NormalizeTask& task) {
    launch_rows<T>(rows_of<T>("normalize", task.extent, task.x, task.out, task.axes),
                   [&](auto shape, auto rounds, const RowArgument& row, Grid grid, std::size_t shared) {
                       launch("normalize", normalize<T, shape.value, rounds.value>, grid, team_threads(shape.value),
                              shared, NormalizeArgument{row, task.epsilon, task.center});
                   });
}

// ------------------------------------------------------------------------------------------------ reductions

// Step between elements of x along the innermost axis that is (or is not) reduced; 0: there is none.
std::int64_t innermost_step(const ReduceTask& task, bool reduced) {
    for (int axis = task.x.rank; axis-- > 0;) {
        if ((task.axes >> axis & 1u) == (reduced ? 1u : 0u) && task.x.sizes[axis] > 1) return task.x.strides[axis];
    }
    return 0;
}

template <class T>
void reduce_kernel(const ReduceTask& task) {
    const Operand* const operands[] = {&task.x, &task.out};
    Nest<2> kept;
    Nest<1> reduced;
    kept.add(task.extent.samples, 2, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < task.x.rank; ++axis) {
        if (task.axes >> axis & 1u) {
            reduced.add(task.x.sizes[axis], 1, [&](int) { return axis_stride(task.x, axis); });
        } else {
            kept.add(task.x.sizes[axis], 2, [&](int k) { return axis_stride(*operands[k], axis); });
        }
    }
    const std::int64_t lanes = task.extent.lanes, terms = reduced.elements();
    const ReduceArgument argument{.kept = kept.loops("reduce", 2),
                                  .reduced = reduced.loops("reduce", 1),
                                  .x = lanes_of(on_device(task.x, lanes)),
                                  .out = lanes_of(on_device(task.out, lanes)),
                                  .reduction = task.reduction,
                                  .tangent = task.extent.tangent,
                                  .lanes = lanes};
    const auto run = [&](auto shape, auto kind) {
        // Products run in float64 whatever the precision.
        using Term = std::conditional_t<kind.value == Reduced::products, double, T>;
        const bool at_once = kind.value == Reduced::choices && task.extent.tangent;
        launch("reduce", reduce<Term, shape.value, kind.value>,
               Grid{blocks_of(argument.kept.count, shape.value), at_once ? 1 : grid_lanes(lanes), 1},
               team_threads(shape.value), team_bytes(shape.value), argument);
    };
    const auto in_shape = [&](auto shape) {
        switch (task.reduction) {
            case Reduction::sum:
            case Reduction::mean:
                return run(shape, std::integral_constant<Reduced, Reduced::sums>{});
            case Reduction::maximum:
            case Reduction::minimum:
            case Reduction::argmax:
            case Reduction::argmin:
                return run(shape, std::integral_constant<Reduced, Reduced::choices>{});
            case Reduction::product:
                return run(shape, std::integral_constant<Reduced, Reduced::products>{});
            case Reduction::any:
            case Reduction::all:
                return run(shape, std::integral_constant<Reduced, Reduced::truths>{});
        }
    };
    // Side by side are outputs where that is how x lies, or where there are fewer terms than a warp has lanes to spare.
    const bool adjacent = innermost_step(task, false) == 1 && innermost_step(task, true) != 1;
    if (adjacent || terms <= Team<Shape::columns>::kMembers) {
        in_shape(InShape<Shape::columns>{});
    } else if (terms <= kWarpTerms) {
        in_shape(InShape<Shape::warp>{});
    } else {
        in_shape(InShape<Shape::block>{});
    }
}

// ------------------------------------------------------------------------------------------------ scans

// Columns whose steps are adjacent are a warp's, if there are enough of them to occupy one.
constexpr std::int64_t kFewSteps = 16;

// `positions` may be `out`.
ScanArgument scan_argument(const char* name, const Extent& extent, const Operand& x, const Operand& out,
                           const Operand& positions, int axis) {
    const Operand* const operands[] = {&x, &out, &positions};
    Nest<3> columns;
    columns.add(extent.samples, 3, [&](int k) { return operands[k]->sample_stride; });
    for (int other = 0; other < x.rank; ++other) {
        if (other != axis) columns.add(x.sizes[other], 3, [&](int k) { return axis_stride(*operands[k], other); });
    }
    ScanArgument a{};
    a.columns = columns.loops(name, 3);
    a.x = lanes_of(on_device(x, extent.lanes));
    a.out = lanes_of(on_device(out, extent.lanes));
    a.positions = lanes_of(on_device(positions, extent.lanes));
    a.steps = static_cast<std::uint32_t>(x.sizes[axis]);
    a.x_step = axis_stride(x, axis);
    a.out_step = axis_stride(out, axis);
    a.positions_step = axis_stride(positions, axis);
    a.tangent = extent.tangent;
    a.lanes = extent.lanes;
    return a;
}

// `run(along)` gives the kernel.
template <class Run>
void launch_scan(const char* name, const ScanArgument& argument, std::int64_t rows, const Run& run) {
    const bool along = argument.x_step == 1 && argument.steps > kFewSteps;
    const auto each = static_cast<std::uint32_t>(along ? kScanThreads / 32 : kScanThreads);
    const Grid grid{(argument.columns.count + each - 1) / each, grid_lanes(rows), 1};
    if (along) {
        launch(name, run(std::true_type{}), grid, kScanThreads, 0, argument);
    } else {
        launch(name, run(std::false_type{}), grid, kScanThreads, 0, argument);
    }
}

void scan_kernel(const ScanTask& task) {
    const ScanArgument argument = scan_argument("scan", task.extent, task.x, task.out, task.out, task.axis);
    launch_scan("scan", argument, argument.lanes,
                [&](auto along) { return task.product ? scan<along.value, true> : scan<along.value, false>; });
}

// Choices are compared in the precision of x.
template <class T>
void run_running_extreme(const RunningExtremeTask& task) {
    ScanArgument argument =
        scan_argument("running_extreme", task.extent, task.x, task.values, task.positions, task.axis);
    argument.largest = task.largest;
    std::int64_t rows = argument.lanes;
    if (argument.tangent) {
        const TangentShare share = TangentShare::of(argument.lanes, argument.columns.count / kScanThreads + 1);
        argument.tangents_each = share.each;
        rows = share.blocks;
    }
    launch_scan("running_extreme", argument, rows, [&](auto along) { return running_extreme<T, along.value>; });
}

void running_extreme_kernel(const RunningExtremeTask& task) {
    if (task.x.precision == Precision::float64) {
        run_running_extreme<double>(task);
    } else {
        run_running_extreme<float>(task);
    }
}

// ------------------------------------------------------------------------------------------------ top-k

template <class T>
void top_k_kernel(const TopKTask& task) {
    const Operand* const operands[] = {&task.x, &task.values, &task.positions};
    const int last = task.x.rank - 1;
    const std::int64_t lanes = task.extent.lanes;
    Nest<3> rows;
    rows.add(task.extent.samples, 3, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < last; ++axis) {
        rows.add(task.x.sizes[axis], 3, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    const TopKArgument argument{.rows = rows.loops("top_k", 3),
                                .x = lanes_of(on_device(task.x, lanes)),
                                .values = lanes_of(on_device(task.values, lanes)),
                                .positions = lanes_of(on_device(task.positions, lanes)),
                                .elements = static_cast<std::uint32_t>(task.x.sizes[last]),
                                .count = static_cast<std::uint32_t>(task.count),
                                .x_step = axis_stride(task.x, last),
                                .values_step = axis_stride(task.values, last),
                                .positions_step = axis_stride(task.positions, last),
                                .tangent = task.extent.tangent,
                                .largest = task.largest,
                                .lanes = lanes};
    const auto in_shape = [&](auto shape) {
        const Grid grid{blocks_of(argument.rows.count, shape.value), task.extent.tangent ? 1 : grid_lanes(lanes), 1};
        launch("top_k", top_k<T, shape.value>, grid, team_threads(shape.value), team_bytes(shape.value), argument);
    };
    if (argument.elements <= kWarpTerms) {
        in_shape(InShape<Shape::warp>{});
    } else {
        in_shape(InShape<Shape::block>{});
    }
}

template <class Task>
std::int64_t no_scratch(const Task&) {
    return 0;
}

template <class T>
constexpr RowKernels kernels = {
    .reduce_scratch = no_scratch<ReduceTask>,
    .reduce = reduce_kernel<T>,
    .softmax_scratch = no_scratch<SoftmaxTask>,
    .softmax = softmax_kernel<T>,
    .normalize_scratch = no_scratch<NormalizeTask>,
    .normalize = normalize_kernel<T>,
    .scan_scratch = no_scratch<ScanTask>,
    .scan = scan_kernel,
    .running_extreme_scratch = no_scratch<RunningExtremeTask>,
    .running_extreme = running_extreme_kernel,
    .top_k_scratch = no_scratch<TopKTask>,
    .top_k = top_k_kernel<T>,
};

}  // namespace

constinit const RowKernels row_kernels[kPrecisions] = {kernels<float>, kernels<double>, kernels<float>, kernels<float>};

}  // namespace tqs::cuda
