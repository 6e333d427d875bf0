#include "cuda/program/cublas_lt.h"
#include "cuda/program/layer_rows.h"

namespace tqs::cuda {
namespace {

// Elements from one row to the next where all rows lie evenly apart; 0: they do not.
class RowStride {
  public:
    explicit RowStride(std::int64_t alone) : stride_(alone) {}

    // The next outer axis.
    void add(std::int64_t size, std::int64_t stride) {
        if (size == 1) return;
        if (count_ == 1) {
            stride_ = stride;
        } else if (stride != count_ * stride_) {
            stride_ = 0;
        }
        count_ *= size;
    }
    std::int64_t stride() const { return stride_; }

  private:
    std::int64_t count_ = 1, stride_;
};

std::int64_t x_stride(const LayerTask& task, std::int64_t lanes) {
    RowStride rows(task.channels);
    rows.add(task.width.outputs, task.width.stride * task.width.x_stride);
    rows.add(task.height.outputs, task.height.stride * task.height.x_stride);
    rows.add(task.batch, task.x_batch);
    rows.add(task.extent.samples, task.x.sample_stride);
    rows.add(lanes, task.x.lane_stride);
    return rows.stride();
}

bool out_is_dense(const LayerTask& task) {
    RowStride rows(task.outputs);
    rows.add(rows_of(task), task.outputs);
    rows.add(task.extent.samples, task.out.sample_stride);
    rows.add(task.extent.lanes, task.out.lane_stride);
    return rows.stride() == task.outputs;
}

const char* bias_of(const LayerTask& task, std::int64_t lane) {
    const Operand& bias = task.bias;
    if (!bias.data) return nullptr;
    if (bias.lanes) return static_cast<const char*>(bias.lanes[lane]);
    if (task.extent.tangent && lane > 0 && bias.lane_stride == 0) return nullptr;
    return static_cast<const char*>(bias.data) + lane * bias.lane_stride * precision_bytes(task.precision);
}

bool all_aligned(const DenseProduct& product) {
    for (const void* address : {product.x, product.weight, product.bias, static_cast<const void*>(product.out)}) {
        if (!is_aligned(address)) return false;
    }
    const std::int64_t vector = vector_of(product.precision);
    return product.x_stride % vector == 0 && product.k % vector == 0 && product.outputs % vector == 0;
}

// Operations from which on a launch of its own pays, which costs a microsecond or two. By the models of an H200 an
// operation then takes less by about 1e-15 seconds in 16 bits and in float32 (where 88 % of the 67 TFLOP/s of its
// multiply-adds are ours already), by 2e-14 where tensor cores take the place of multiply-adds: tf32 and float64.
std::int64_t worth(const LayerTask& task) {
    const bool to_tensor_cores =
        task.precision == Precision::float64 || (task.precision == Precision::float32 && task.tf32);
    return to_tensor_cores ? 100'000'000 : 1'000'000'000;
}

std::int64_t operations_of(const LayerTask& task) {
    return 2 * task.extent.lanes * task.extent.samples * rows_of(task) * task.outputs * task.channels;
}

bool is_large(const LayerTask& task) {
    return task.extent.lanes * task.extent.samples * rows_of(task) >= 64 && operations_of(task) >= worth(task);
}

}  // namespace

std::vector<DenseProduct> all_dense_products(const LayerTask& task) {
    const std::int64_t bytes = precision_bytes(task.precision), lane_rows = task.extent.samples * rows_of(task);
    if (!is_linear(task) || task.groups != 1 || task.x.lanes || !out_is_dense(task)) return {};
    const auto x = static_cast<const char*>(task.x.data);
    const auto out = static_cast<char*>(task.out.data);
    const bool tangent = task.extent.tangent;

    std::vector<DenseProduct> products;
    for (std::int64_t lane = 0, end; lane < task.extent.lanes; lane = end) {
        const auto weight = [&](std::int64_t l) {
            return task.weights ? task.weights[tangent ? 0 : l] : task.weight;
        };
        const auto other = [&](std::int64_t l) {
            return tangent && l > 0 && task.weights ? task.weights[l] : nullptr;
        };
        // Of a tangent with two products neither may be rounded before they meet.
        if (other(lane) || (tangent && lane > 0 && is_shared(task.x))) return {};
        end = lane + 1;
        while (end < task.extent.lanes && weight(end) == weight(lane) && !other(end) &&
               bias_of(task, end) == bias_of(task, lane)) {
            ++end;
        }
        const DenseProduct product{task.precision,
                                   task.tf32,
                                   (end - lane) * lane_rows,
                                   task.outputs,
                                   task.channels,
                                   x_stride(task, end - lane),
                                   x + lane * task.x.lane_stride * bytes,
                                   weight(lane),
                                   bias_of(task, lane),
                                   out + lane * task.out.lane_stride * bytes};
        if (product.x_stride < product.k || !all_aligned(product)) return {};
        products.push_back(product);
    }
    return products;
}

std::vector<DenseProduct> dense_products(const LayerTask& task) {
    if (!is_large(task)) return {};
    std::vector<DenseProduct> products = all_dense_products(task);
    if (operations_of(task) < static_cast<std::int64_t>(products.size()) * worth(task)) products.clear();
    return products;
}

std::int64_t dense_scratch(const LayerTask& task) {
    return is_linear(task) && task.groups == 1 && is_large(task) ? kDenseWorkspace : 0;
}

}  // namespace tqs::cuda
