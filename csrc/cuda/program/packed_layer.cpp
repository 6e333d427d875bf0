#include "cuda/program/packed_layer.h"

#include <algorithm>

#include "cuda/check.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/program/context.h"
#include "cuda/program/kernels.h"

namespace tqs::cuda {
namespace {

constexpr DType kElement = DType::float32;

// x and y as rows, `each` of a lane and sample.
struct Rows {
    std::int64_t each, columns, samples, lanes;

    explicit Rows(const PackedLayerTask& task)
        : each(1),
          columns(task.weight->columns),
          samples(task.extent.samples),
          lanes(is_shared(task.x) ? 1 : task.extent.lanes) {
        for (int axis = 0; axis + 1 < task.x.rank; ++axis) each *= task.x.sizes[axis];
    }

    std::int64_t of_lane() const { return each * samples; }
    std::int64_t copied_bytes() const {
        return pad(lanes * of_lane() * columns * std::int64_t{sizeof(float)}, kAlignment);
    }
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

Plan plan_of(const QgemmTask& product, bool int8, const cuda::Device& device) {
    if (!int8) return {};
    const Plan plan = choose_plan(problem_of(product, kElement, true), device);
    require(plan.kernel != Kernel::simple, "engine", "int8 activations on CUDA want fewer than 2^20 rows and at most ",
            kSpan, " inputs for one scale per channel; use groups, or float activations");
    return plan;
}

// The rows of x, contiguous in all lanes and samples: copied to the beginning of the scratch.
const float* contiguous_rows(const PackedLayerTask& task, const Rows& rows) {
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
    movement_kernels[static_cast<int>(Precision::float32)].copy({extent, task.x, copy});
    return static_cast<const float*>(task.scratch);
}

// Lanes [lane, lane + lanes) of y from as many of x that begin at x_lane.
struct LaneProducts {
    std::int64_t x_lane, lane, lanes;
    const float* bias;
    bool int8;
};

class Layer {
  public:
    Layer(const PackedLayerTask& task, const cuda::Device& device)
        : task_(task), device_(device), rows_(task), x_(contiguous_rows(task, rows_)) {}

    void multiply(const LaneProducts& lanes) const {
        QgemmTask product = product_of(task_, lanes.lanes * rows_.of_lane());
        product.x = x_ + lanes.x_lane * rows_.of_lane() * rows_.columns;
        product.bias = lanes.bias;
        product.y = static_cast<float*>(task_.out.data) + lanes.lane * task_.out.lane_stride;
        const cudaStream_t stream = context().stream();
        if (!lanes.int8) return multiply_simple(product, kElement, stream);
        const Plan plan = plan_of(product, true, device_);
        auto* const workspace = static_cast<unsigned char*>(task_.scratch) + rows_.copied_bytes();
        check_cuda(cudaMemsetAsync(workspace, 0, kCounters * sizeof(unsigned), stream), "engine", "cudaMemsetAsync");
        multiply_prepacked(product, plan, kElement, true, workspace, stream);
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
        movement_kernels[static_cast<int>(Precision::float32)].copy({task_.extent, x, y});
    }

    const float* bias(std::int64_t lane) const {
        const Operand& bias = task_.bias;
        if (!bias.data || (task_.extent.tangent && lane > 0 && !bias.lanes)) return nullptr;
        return static_cast<const float*>(bias.lanes ? bias.lanes[lane] : bias.data);
    }

    void run() const {
        const std::int64_t lanes = task_.extent.lanes;
        const bool tangent = task_.extent.tangent, once = rows_.lanes == 1;
        if (lanes > 1 && once && !task_.bias.lanes && !tangent) {
            multiply({0, 0, 1, bias(0), task_.int8});
            Operand first = task_.out;
            first.lane_stride = 0;
            return fill(first);
        }
        if (tangent && once && lanes > 1) {  // tangents are those of the bias
            Operand start = task_.bias.data ? task_.bias : task_.out;
            if (!task_.bias.data) start.lane_stride = 0;
            fill(start);
            return multiply({0, 0, 1, bias(0), task_.int8});
        }
        // Runs of lanes with one bias and one form of activations.
        for (std::int64_t lane = 0, end; lane < lanes; lane = end) {
            const bool int8 = task_.int8 && !(tangent && lane > 0);
            end = lane + 1;
            while (!once && end < lanes && bias(end) == bias(lane) && !(tangent && lane == 0)) ++end;
            multiply({once ? 0 : lane, lane, end - lane, bias(lane), int8});
        }
    }

  private:
    const PackedLayerTask& task_;
    const cuda::Device& device_;
    Rows rows_;
    const float* x_;
};

}  // namespace

std::int64_t packed_layer_scratch(const PackedLayerTask& task, const cuda::Device& device) {
    const Rows rows(task);
    std::int64_t workspace = 0;
    for (const std::int64_t count : {std::int64_t{1}, rows.lanes}) {
        workspace = std::max(workspace, plan_of(product_of(task, count * rows.of_lane()), task.int8, device).workspace);
    }
    return rows.copied_bytes() + workspace;
}

void multiply_packed_layer(const PackedLayerTask& task, const cuda::Device& device) {
    Layer(task, device).run();
}

}  // namespace tqs::cuda
