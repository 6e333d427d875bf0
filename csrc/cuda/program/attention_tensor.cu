// 16-bit attention on tensor cores (device/attention_tensor.cuh): which shapes it takes, and how they are cut.
#include <algorithm>

#include "cuda/device/attention_combine.cuh"
#include "cuda/device/attention_tensor_primal.cuh"
#include "cuda/device/attention_tensor_tangents.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/program/attention.h"
#include "cuda/program/attention_warpgroups.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {
namespace {

constexpr const char* kName = "attention";
// Keys of a split where one warp has all queries (a few queries against a long context, whose blocks would otherwise be
// few). It depends on the sizes of one sample and lane alone, since the order of sums does.
constexpr std::int64_t kSplitKeys = 512;
// Of a block on sm_86 and sm_89, the least of the architectures that are built.
constexpr std::size_t kLeastShared = 99 << 10;

struct Cut {
    std::int64_t rows, pitch;  // queries of all heads and samples, and floats of a state
    int splits;

    explicit Cut(const AttentionTask& task) {
        const int leading = task.out.rank - 2;
        const std::int64_t queries = task.out.sizes[leading], keys = task.k.sizes[leading];
        rows = task.extent.samples * queries;
        for (int axis = 0; axis < leading; ++axis) rows *= task.out.sizes[axis];
        pitch = task.out.sizes[leading + 1] + 2;
        splits =
            queries <= kWarpQueries && keys > kSplitKeys ? static_cast<int>((keys + kSplitKeys - 1) / kSplitKeys) : 1;
    }
};

bool has_tangents(const AttentionTask& task) {
    return task.extent.tangent && task.extent.lanes > 1;
}

std::int64_t state_floats(const AttentionTask& task, const Cut& cut) {
    return has_tangents(task) ? (cut.rows * cut.pitch + 31) / 32 * 32 : 0;
}

template <class Shape, class Kernel>
void launch_shape(const TensorArgument& h, Kernel kernel, std::int64_t lanes, std::int64_t more = 1) {
    const std::int64_t each = Shape::queries(h.warps), blocks = (h.a.queries + each - 1) / each;
    launch(kName, kernel,
           Grid{blocks_of(blocks * h.a.heads.count * h.splits, "queries"), static_cast<unsigned>(lanes),
                static_cast<unsigned>(more)},
           32 * h.warps, Shape::shared_bytes(h.warps), h);
}

template <class Element, bool tangents>
void combine(const TensorArgument& h, const Cut& cut) {
    const std::int64_t elements = cut.rows * h.a.width;
    launch(kName, tensor_combine<Element, tangents>,
           Grid{blocks_of((elements + kCombineThreads - 1) / kCombineThreads, "elements"), grid_lanes(h.lanes),
                grid_rests(h.lanes)},
           kCombineThreads, 0, h);
}

template <class Element, int depth>
void run_primal(TensorArgument h, const Cut& cut) {
    using Shape = TensorShape<Element, depth, 0, depth <= 64 ? 64 : 32>;
    static_assert(Shape::shared_bytes(kMostWarps) <= kLeastShared);
    launch_shape<Shape>(h, tensor_primal<Shape>, grid_lanes(h.lanes), grid_rests(h.lanes));
    if (h.splits > 1) combine<Element, false>(h, cut);
}

// The tangents left, in groups of `each`.
template <class Element, int depth, int each>
void run_groups(TensorArgument& h, std::int64_t groups) {
    // Keys of a step: what the registers hold with the largest group; a lane alone sums in the same order.
    using Shape = TensorShape<Element, depth, each, depth <= 64 ? 16 : 32>;
    static_assert(Shape::shared_bytes(kMostWarps) <= kLeastShared);
    for (std::int64_t done = 0; done < groups; done += kMostGridLanes) {
        const std::int64_t now = std::min(groups - done, kMostGridLanes);
        launch_shape<Shape>(h, tensor_tangents<Shape>, now);
        h.a.first_lane += now * each;
    }
}

template <class Element, int depth>
void run_tangents(TensorArgument h, const Cut& cut) {
    const std::int64_t first = h.a.first_lane;
    if constexpr (depth <= 64) run_groups<Element, depth, 2>(h, h.lanes / 2);
    run_groups<Element, depth, 1>(h, h.lanes - (h.a.first_lane - first));
    h.a.first_lane = first;
    if (h.splits > 1) combine<Element, true>(h, cut);
}

bool aligned(const void* data) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}
// Whether all rows of all lanes begin at multiples of 16 bytes.
bool rows_aligned(const Operand& x, const Extent& extent) {
    bool result = steps_aligned(x, extent) && aligned(x.data);
    for (std::int64_t lane = 0; x.lanes && lane < extent.lanes; ++lane) result = result && aligned(x.lanes[lane]);
    return result;
}

// Whether wgmma computes the tangents (device/attention_warpgroups.cuh), which is expected to be faster where it
// computes less than 500 / 300 of the products that mma.sync would: its blocks are whole, 128 queries and not 32, rows
// of 32 values become 64 there and rows of 96 become 128, and tangents that no lane has are multiplied as zeros.
bool takes_warpgroups(const TensorArgument& h) {
    const AttentionArgument& a = h.a;
    if (a.q_moves + a.k_moves + a.v_moves < 2 || a.queries <= 64 || std::max(a.depth, a.width) <= 32) return false;
    if (a.masked && (a.mask_moves || !h.mask_aligned)) return false;
    int device = 0, capability = 0;
    check_cuda(cudaGetDevice(&device), kName, "cudaGetDevice");
    check_cuda(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device), kName,
               "cudaDeviceGetAttribute");
    return has_attention_warpgroups() && capability == 9;
}

template <class Element>
void run_warpgroups(const TensorArgument& h) {
    if constexpr (std::is_same_v<Element, Bfloat16>) {
        attention_warpgroups_bfloat16(h);
    } else {
        attention_warpgroups_float16(h);
    }
}

template <class Element, int depth>
void run_depth(const AttentionTask& task, bool whole_vectors) {
    const Cut cut(task);
    TensorArgument h{};
    h.a = argument_of(task);
    h.scale = static_cast<float>(task.scale);
    h.exponent_scale = static_cast<float>(task.scale * static_cast<double>(kLog2E));
    h.mask_aligned = h.a.masked && whole_vectors && rows_aligned(task.mask, task.extent);
    h.warps = static_cast<int>(std::min<std::int64_t>((h.a.queries + kWarpQueries - 1) / kWarpQueries, kMostWarps));
    h.splits = cut.splits;
    h.split_keys = static_cast<int>(kSplitKeys);
    const bool tangents = has_tangents(task);
    h.states = tangents ? static_cast<float*>(task.scratch) : nullptr;
    h.partials = static_cast<float*>(task.scratch) + state_floats(task, cut);
    h.lanes = task.extent.tangent ? 1 : task.extent.lanes;
    run_primal<Element, depth>(h, cut);
    h.lanes = task.extent.lanes - 1;
    if (!tangents) return;
    if (takes_warpgroups(h)) return run_warpgroups<Element>(h);
    run_tangents<Element, depth>(h, cut);
}

}  // namespace

bool takes_tensor_attention(const AttentionTask& task) {
    constexpr std::int64_t kMostDepth = 128;
    const std::int64_t depth = task.q.sizes[task.q.rank - 1], width = task.v.sizes[task.v.rank - 1];
    bool takes = depth % 8 == 0 && width % 8 == 0 && depth > 0 && width > 0 && std::max(depth, width) <= kMostDepth;
    for (const Operand* x : {&task.q, &task.k, &task.v, &task.out}) takes = takes && rows_aligned(*x, task.extent);
    for (int k = 0; task.apart && k < kAttentionOperands; ++k) {
        if (k != kMask) takes = takes && aligned(task.apart[k].data) && task.apart[k].stride % 8 == 0;
    }
    return takes;
}

std::int64_t tensor_attention_scratch(const AttentionTask& task) {
    const Cut cut(task);
    const std::int64_t lanes = has_tangents(task) ? task.extent.lanes - 1 : task.extent.lanes;
    const std::int64_t partials = cut.splits > 1 ? cut.splits * lanes * cut.rows * cut.pitch : 0;
    return (state_floats(task, cut) + partials) * static_cast<std::int64_t>(sizeof(float));
}

template <class Element>
void tensor_attention(const AttentionTask& task, bool whole_vectors) {
    const int last = task.out.rank - 1;
    const std::int64_t depth = std::max(task.q.sizes[last], task.out.sizes[last]);
    if (depth <= 32) return run_depth<Element, 32>(task, whole_vectors);
    if (depth <= 64) return run_depth<Element, 64>(task, whole_vectors);
    if (depth <= 96) return run_depth<Element, 96>(task, whole_vectors);
    run_depth<Element, 128>(task, whole_vectors);
}

template void tensor_attention<Bfloat16>(const AttentionTask& task, bool whole_vectors);
template void tensor_attention<Float16>(const AttentionTask& task, bool whole_vectors);

}  // namespace tqs::cuda
