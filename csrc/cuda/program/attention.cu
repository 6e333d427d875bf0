// Attention on the GPU (device/attention.cuh): how many queries, columns and tangents a block takes.
#include <algorithm>

#include "cuda/device/attention.cuh"
#include "cuda/device_properties.h"
#include "cuda/program/attention.h"
#include "cuda/program/kernels.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {
namespace {

constexpr const char* kName = "attention";
// Queries from which on a block of 64 is worth it; below, one of 16.
constexpr std::int64_t kManyQueries = 17;

// Lane 1 of what Lanes counts from lane 0.
Lanes apart(const Operand& operand, const LanesApart& lanes) {
    const std::int64_t step = lanes.stride * precision_bytes(operand.precision);
    return {static_cast<char*>(lanes.data) - step, nullptr, step, operand.precision, lanes.data == nullptr};
}

}  // namespace

AttentionArgument argument_of(const AttentionTask& task) {
    const int leading = task.out.rank - 2;
    const std::int64_t lanes = task.extent.lanes;
    const bool masked = has_mask(task);
    Operand none = task.out;  // in place of an absent mask: one address, no lanes, no steps
    none.lane_stride = none.sample_stride = 0;
    std::fill_n(none.strides, none.rank, 0);
    const Operand* const operands[] = {&task.q, &task.k, &task.v, masked ? &task.mask : &none, &task.out};
    Nest<kAttentionOperands> heads;
    heads.add(task.extent.samples, kAttentionOperands, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis < leading; ++axis) {
        heads.add(task.out.sizes[axis], kAttentionOperands, [&](int k) { return operands[k]->strides[axis]; });
    }
    AttentionArgument a{};
    a.heads = heads.loops(kName, kAttentionOperands);
    for (int k = 0; k < kAttentionOperands; ++k) {
        a.operands[k] = a.tangents[k] = lanes_of(on_device(*operands[k], lanes));
        if (task.apart) a.tangents[k] = apart(*operands[k], task.apart[k]);
        a.steps[k] = {operands[k]->strides[leading], operands[k]->strides[leading + 1]};
    }
    a.queries = static_cast<std::uint32_t>(task.out.sizes[leading]);
    a.keys = static_cast<std::uint32_t>(task.k.sizes[leading]);
    a.depth = static_cast<std::uint32_t>(task.q.sizes[leading + 1]);
    a.width = static_cast<std::uint32_t>(task.out.sizes[leading + 1]);
    a.scale = task.scale;
    a.causal = task.causal;
    a.causal_offset = {task.causal_offset, task.causal_step, task.clock};
    a.masked = masked;
    a.tangent = task.extent.tangent;
    a.q_moves = a.tangent && !a.tangents[kQ].shared;
    a.k_moves = a.tangent && !a.tangents[kK].shared;
    a.v_moves = a.tangent && !a.tangents[kV].shared;
    a.mask_moves = a.tangent && masked && !a.tangents[kMask].shared;
    a.first_lane = 1;
    a.lanes = lanes;
    a.writes_primal = true;
    return a;
}

namespace {

template <class Shape>
void launch_shape(const AttentionArgument& a, std::int64_t rows, std::int64_t more = 1) {
    const auto parts = [](std::uint32_t count, int each) {
        return (count + static_cast<std::uint32_t>(each) - 1) / static_cast<std::uint32_t>(each);
    };
    const std::int64_t blocks =
        std::int64_t{a.heads.count} * parts(a.queries, Shape::kQueries) * parts(a.width, Shape::kWidth);
    require(blocks <= std::numeric_limits<std::int32_t>::max(), kName,
            "expected fewer than 2^31 blocks of queries, got ", blocks, "; use fewer samples");
    launch(kName, attention<Shape>,
           Grid{static_cast<unsigned>(blocks), static_cast<unsigned>(rows), static_cast<unsigned>(more)},
           kAttentionThreads, Shape::kShared, a);
}

// The tangents left, in groups of as many as fit: one launch per size of a group that occurs.
template <class T, int rows, int widths, int tangents>
void launch_groups(AttentionArgument& a, std::int64_t shared) {
    using Shape = AttentionShape<T, rows, tangents, widths>;
    if constexpr (tangents == 0) {
        launch_shape<Shape>(a, grid_lanes(a.lanes), grid_rests(a.lanes));
    } else {
        const bool fits = static_cast<std::int64_t>(Shape::kShared) <= shared;
        const std::int64_t groups = fits ? (a.lanes - a.first_lane) / tangents : 0;
        for (std::int64_t done = 0; done < groups; done += kMostGridLanes) {
            const std::int64_t now = groups - done < kMostGridLanes ? groups - done : kMostGridLanes;
            launch_shape<Shape>(a, now);
            a.first_lane += now * tangents;
            a.writes_primal = false;
        }
        if constexpr (tangents > 1) launch_groups<T, rows, widths, tangents / 2>(a, shared);
    }
}

template <class T>
void attention_kernel(const AttentionTask& task) {
    AttentionArgument a = argument_of(task);
    const std::int64_t shared = shared_limit();
    // float64 with a tangent takes 101 KiB, which sm_86 and sm_89 do not have.
    const bool fits = static_cast<std::int64_t>(AttentionShape<T, 4, 1, 1>::kShared) <= shared;
    const bool many = a.queries >= kManyQueries && fits, wide = many && a.width > 64;
    const bool tangents = a.tangent && a.lanes > 1;
    constexpr int most = sizeof(T) == 4 ? 4 : 1;  // whose sums the registers hold
    if (!tangents) {
        if constexpr (sizeof(T) == 4) {
            if (wide) return launch_groups<T, 4, 2, 0>(a, shared);
        }
        return many ? launch_groups<T, 4, 1, 0>(a, shared) : launch_groups<T, 1, 1, 0>(a, shared);
    }
    if constexpr (sizeof(T) == 4) {
        if (wide) return launch_groups<T, 4, 2, 2>(a, shared);
    }
    return many ? launch_groups<T, 4, 1, most>(a, shared) : launch_groups<T, 1, 1, 4>(a, shared);
}

std::int64_t no_scratch(const AttentionTask&) {
    return 0;
}

// ------------------------------------------------------------------------------------------------ 16 bits

// What copies of operands take from a task's scratch, one after the other.
class Scratch {
  public:
    explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}

    std::int64_t bytes() const { return bytes_; }
    void* rest() const { return memory_ ? memory_ + bytes_ : nullptr; }

    // Room for `x` in `precision`, contiguous but for what it broadcasts along and for rows, which begin at multiples
    // of `row` elements.
    Operand room_for(const Operand& x, const Extent& extent, Precision precision, std::int64_t row = 1) {
        Operand copy = x;
        copy.precision = precision;
        copy.lanes = nullptr;
        std::int64_t elements = 1;
        for (int axis = x.rank - 1; axis >= 0; --axis) {
            if (axis_stride(x, axis) == 0) {
                copy.strides[axis] = 0;
                continue;
            }
            copy.strides[axis] = elements;
            elements *= x.sizes[axis];
            if (axis == x.rank - 1) elements = (elements + row - 1) / row * row;
        }
        copy.sample_stride = x.sample_stride == 0 ? 0 : elements;
        if (x.sample_stride != 0) elements *= extent.samples;
        copy.lane_stride = is_shared(x) ? 0 : elements;
        if (!is_shared(x)) elements *= extent.lanes;
        copy.data = memory_ ? memory_ + bytes_ : nullptr;
        bytes_ += (elements * precision_bytes(precision) + 255) / 256 * 256;
        return copy;
    }

  private:
    char* memory_;
    std::int64_t bytes_ = 0;
};

// The task on float32 copies of its operands.
struct Widened {
    AttentionTask task;
    Scratch scratch;

    explicit Widened(const AttentionTask& narrow) : task(narrow), scratch(narrow.scratch) {
        for (Operand* operand : {&task.q, &task.k, &task.v, &task.out}) {
            *operand = scratch.room_for(*operand, task.extent, Precision::float32);
        }
        if (has_mask(task)) task.mask = scratch.room_for(task.mask, task.extent, Precision::float32);
    }
};

std::int64_t widened_scratch(const AttentionTask& task) {
    return Widened(task).scratch.bytes();
}

// Copies `from` to `to`; what both broadcast along is copied once.
void convert(const Extent& extent, Operand from, Operand to) {
    for (int axis = 0; axis < from.rank; ++axis) {
        if (axis_stride(to, axis) == 0) from.sizes[axis] = to.sizes[axis] = 1;
    }
    const std::int64_t lanes = is_shared(to) ? 1 : extent.lanes;
    const std::int64_t samples = to.sample_stride == 0 ? 1 : extent.samples;
    movement_kernels[static_cast<int>(to.precision)].copy({{lanes, samples, extent.tangent && lanes > 1}, from, to});
}

void widened_attention(const AttentionTask& narrow) {
    const Widened wide(narrow);
    const AttentionTask& task = wide.task;
    convert(task.extent, narrow.q, task.q);
    convert(task.extent, narrow.k, task.k);
    convert(task.extent, narrow.v, task.v);
    if (has_mask(task)) convert(task.extent, narrow.mask, task.mask);
    attention_kernel<float>(task);
    convert(task.extent, task.out, narrow.out);
}

// The task on a copy of its mask whose rows can be read 8 elements at a time, where it has no tangents and many queries
// read it. That follows from sizes and strides, since scratch must be known before there are addresses; and, since the
// kernel depends on it, from the stride of samples also where there is one.
struct Padded {
    AttentionTask task;
    Scratch scratch;
    bool whole, copied;

    explicit Padded(const AttentionTask& given) : task(given), scratch(given.scratch) {
        constexpr std::int64_t kVector = 8, kMaskedQueries = 65;
        const int row = given.out.rank - 2;
        const Operand& mask = given.mask;
        whole = given.k.sizes[row] % kVector == 0;
        const bool aligned = steps_aligned(mask, given.extent) && mask.sample_stride % kVector == 0;
        const bool moves = given.apart ? given.apart[kMask].data != nullptr : given.extent.tangent && !is_shared(mask);
        copied = has_mask(given) && !moves && given.out.sizes[row] >= kMaskedQueries &&
                 axis_stride(mask, row + 1) != 0 && !(whole && aligned);
        if (!copied) return;
        task.mask = scratch.room_for(mask, given.extent, mask.precision, kVector);
        task.scratch = scratch.rest();
        whole = true;
    }
};

// On tensor cores where rows are aligned, which is not known before there are addresses. Tangents apart from their
// primal have no copies: who has such asks for what is taken.
std::int64_t half_scratch(const AttentionTask& task) {
    const std::int64_t tensor = tensor_attention_scratch(task) + Padded(task).scratch.bytes();
    return task.apart ? tensor : std::max(tensor, widened_scratch(task));
}
template <class Element>
void half_attention(const AttentionTask& task) {
    if (takes_tensor_attention(task)) {
        const Padded padded(task);
        if (padded.copied) convert(task.extent, task.mask, padded.task.mask);
        return tensor_attention<Element>(padded.task, padded.whole);
    }
    require(!task.apart, kName,
            "expected last axes of multiples of 8 up to 128 and rows aligned to 16 bytes; use float32");
    widened_attention(task);
}

}  // namespace

constinit const AttentionKernels attention_kernels[kPrecisions] = {
    {no_scratch, attention_kernel<float>},
    {no_scratch, attention_kernel<double>},
    {half_scratch, half_attention<Bfloat16>},
    {half_scratch, half_attention<Float16>},
};

}  // namespace tqs::cuda
