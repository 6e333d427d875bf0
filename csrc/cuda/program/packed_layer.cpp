#include "cuda/program/packed_layer.h"

#include <algorithm>
#include <vector>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/program/context.h"
#include "cuda/program/kernels.h"

namespace tqs::cuda {
namespace {

DType element_of(const PackedLayerTask& task) {
    switch (task.x.precision) {
        case Precision::bfloat16:
            return DType::bfloat16;
        case Precision::float16:
            return DType::float16;
        default:
            return DType::float32;
    }
}

// x and y as rows, `each` of a lane and sample.
struct Rows {
    std::int64_t each, item, columns, samples, lanes;

    explicit Rows(const PackedLayerTask& task)
        : each(1),
          item(precision_bytes(task.x.precision)),
          columns(task.weight->columns),
          samples(task.extent.samples),
          lanes(is_shared(task.x) ? 1 : task.extent.lanes) {
        for (int axis = 0; axis + 1 < task.x.rank; ++axis) each *= task.x.sizes[axis];
    }

    std::int64_t of_lane() const { return each * samples; }
    std::int64_t copied_bytes() const { return pad(lanes * of_lane() * columns * item, kAlignment); }
};

QgemmTask product_of(const PackedLayerTask& task, std::int64_t rows) {
    QgemmTask product{};
    product.x_stride = task.weight->columns;
    product.rows = rows;
    product.weight = *task.weight;
    product.panels = static_cast<const std::uint8_t*>(task.panels);
    product.y_stride = task.weight->rows;
    return product;
}

// Kernel::simple for what the kernels of prepacked weights do not take: rows of float32, or of odd lengths.
Plan plan_of(const QgemmTask& product, DType element, bool int8, const cuda::Device& device) {
    const Plan plan = choose_plan(problem_of(product, element, int8), device);
    require(!int8 || plan.kernel != Kernel::simple, "engine",
            "int8 activations on CUDA want fewer than 2^20 rows and at most ", kSpan,
            " inputs for one scale per channel; use groups, or float activations");
    return plan;
}

// The rows of x, contiguous in all lanes and samples: copied to the beginning of the scratch.
const char* contiguous_rows(const PackedLayerTask& task, const Rows& rows) {
    Operand copy = task.x;
    copy.data = task.scratch;
    copy.lanes = nullptr;
    std::int64_t stride = 1;
    for (int axis = copy.rank - 1; axis >= 0; --axis) {
        copy.strides[axis] = stride;
        stride *= copy.sizes[axis];
    }
    copy.sample_stride = stride;
    copy.lane_stride = rows.lanes == 1 ? 0 : stride * rows.samples;
    const Extent extent{rows.lanes, rows.samples, task.extent.tangent && rows.lanes > 1};
    movement_kernels[static_cast<int>(copy.precision)].copy({extent, task.x, copy});
    return static_cast<const char*>(task.scratch);
}

// Lanes [lane, lane + lanes) of y from as many of x that begin at x_lane.
struct LaneProducts {
    std::int64_t x_lane, lane, lanes;
    const float* bias;
    bool int8;
};

const float* bias_of(const PackedLayerTask& task, std::int64_t lane) {
    const Operand& bias = task.bias;
    if (!bias.data || (task.extent.tangent && lane > 0 && !bias.lanes)) return nullptr;
    return static_cast<const float*>(bias.lanes ? bias.lanes[lane] : bias.data);
}

// The products of a task: runs of lanes with one bias and one form of activations.
std::vector<LaneProducts> parts_of(const PackedLayerTask& task, const Rows& rows) {
    const bool tangent = task.extent.tangent, once = rows.lanes == 1;
    const bool first_alone = once && (tangent || !task.bias.lanes);  // what others have is no product
    const std::int64_t lanes = first_alone ? 1 : task.extent.lanes;
    std::vector<LaneProducts> parts;
    for (std::int64_t lane = 0, end; lane < lanes; lane = end) {
        const bool int8 = task.int8 && !(tangent && lane > 0);
        end = lane + 1;
        while (!once && end < lanes && bias_of(task, end) == bias_of(task, lane) && !(tangent && lane == 0)) ++end;
        parts.push_back({once ? 0 : lane, lane, end - lane, bias_of(task, lane), int8});
    }
    return parts;
}

class Layer {
  public:
    Layer(const PackedLayerTask& task, const cuda::Device& device)
        : task_(task), device_(device), element_(element_of(task)), rows_(task), x_(contiguous_rows(task, rows_)) {}

    void multiply(const LaneProducts& lanes) const {
        QgemmTask product = product_of(task_, lanes.lanes * rows_.of_lane());
        product.x = x_ + lanes.x_lane * rows_.of_lane() * rows_.columns * rows_.item;
        product.bias = lanes.bias;
        product.y = static_cast<char*>(task_.out.data) + lanes.lane * task_.out.lane_stride * rows_.item;
        const cudaStream_t stream = context().stream();
        const Plan plan = plan_of(product, element_, lanes.int8, device_);
        if (plan.kernel == Kernel::simple) return multiply_simple(product, element_, device_, stream);
        auto* const workspace = static_cast<unsigned char*>(task_.scratch) + rows_.copied_bytes();
        if (plan.splits > 1) {
            check_cuda(cudaMemsetAsync(workspace, 0, kCounters * sizeof(unsigned), stream), "engine",
                       "cudaMemsetAsync");
        }
        multiply_prepacked(product, plan, element_, lanes.int8, workspace, stream);
    }

    // Lanes of y as copies of what `x` broadcasts to it; in a tangent rollout zero where x has no tangent.
    void fill(Operand x) const {
        const Operand& y = task_.out;
        const int missing = y.rank - x.rank;
        for (int axis = y.rank - 1; axis >= 0; --axis) {
            x.strides[axis] = axis < missing ? 0 : x.strides[axis - missing];
            x.sizes[axis] = y.sizes[axis];
        }
        x.rank = y.rank;
        movement_kernels[static_cast<int>(y.precision)].copy({task_.extent, x, y});
    }

    void run() const {
        const std::int64_t lanes = task_.extent.lanes;
        const bool tangent = task_.extent.tangent, once = rows_.lanes == 1;
        const bool alike = lanes > 1 && once && !task_.bias.lanes && !tangent;
        if (tangent && once && lanes > 1) {  // tangents are those of the bias
            Operand start = task_.bias.data ? task_.bias : task_.out;
            if (!task_.bias.data) start.lane_stride = 0;
            fill(start);
        }
        for (const LaneProducts& part : parts_of(task_, rows_)) multiply(part);
        if (alike) {
            Operand first = task_.out;
            first.lane_stride = 0;
            fill(first);
        }
    }

  private:
    const PackedLayerTask& task_;
    const cuda::Device& device_;
    DType element_;
    Rows rows_;
    const char* x_;
};

}  // namespace

std::int64_t packed_layer_scratch(const PackedLayerTask& task, const cuda::Device& device) {
    const Rows rows(task);
    std::int64_t workspace = 0;
    for (const LaneProducts& part : parts_of(task, rows)) {
        const QgemmTask product = product_of(task, part.lanes * rows.of_lane());
        workspace = std::max(workspace, plan_of(product, element_of(task), part.int8, device).workspace);
    }
    return rows.copied_bytes() + workspace;
}

void multiply_packed_layer(const PackedLayerTask& task, const cuda::Device& device) {
    Layer(task, device).run();
}

}  // namespace tqs::cuda
