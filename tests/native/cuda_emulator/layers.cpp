// Products of the engine, emulated: what tests/test_cuda_layers.py calls. Arrays are contiguous.
#include <exception>
#include <string>
#include <vector>

#include "core/check.h"
#include "cuda/program/context.h"
#include "cuda/program/cublas_lt.h"
#include "cuda/program/kernels.h"
#include "cuda/program/layer.h"

using namespace tqs;
using namespace tqs::cuda;

namespace {

std::string problem;

Operand contiguous(int precision, void* data, std::vector<std::int64_t> sizes) {
    Operand operand{};
    operand.precision = static_cast<Precision>(precision);
    operand.rank = static_cast<int>(sizes.size());
    operand.data = data;
    std::int64_t stride = 1;
    for (int axis = operand.rank - 1; axis >= 0; --axis) {
        operand.sizes[axis] = sizes[static_cast<std::size_t>(axis)];
        operand.strides[axis] = stride;
        stride *= operand.sizes[axis];
    }
    operand.sample_stride = operand.lane_stride = stride;
    return operand;
}

template <class Run>
const char* guarded(const Run& run) {
    try {
        Context own(nullptr, false);
        const ContextScope scope(own);
        run();
        return nullptr;
    } catch (const std::exception& error) {
        problem = error.what();
        return problem.c_str();
    }
}

}  // namespace

extern "C" {

// out [lanes, samples, rows, n] = x [lanes, samples, rows, k] weight^T + bias [lanes, n], or bias [n] where there is
// one for all lanes; without addresses for all lanes, theirs lie `bias_stride` elements apart. Rows of x begin `stride`
// elements apart. weights: one [n, k / groups] per lane, null for zero tangents.
const char* emulated_layer(int precision, int tangent, std::int64_t lanes, std::int64_t samples, std::int64_t rows,
                           std::int64_t n, std::int64_t k, std::int64_t groups, std::int64_t stride, void* x,
                           const void* const* weights, void* const* biases, std::int64_t bias_stride, void* out,
                           int multiprocessors, int by_library, int tf32, std::int64_t* products) {
    return guarded([&] {
        LayerTask task{};
        task.extent = {lanes, samples, tangent != 0};
        task.precision = static_cast<Precision>(precision);
        task.x = contiguous(precision, x, {rows, stride});
        task.x.sizes[1] = k;
        task.x.lane_stride *= samples;
        task.bias = contiguous(precision, biases ? biases[0] : nullptr, {n});
        task.bias.sample_stride = 0;
        task.bias.lane_stride = bias_stride;
        if (lanes > 1 && biases && biases[1]) task.bias.lanes = biases;
        task.out = contiguous(precision, out, {rows, n});
        task.out.lane_stride *= samples;
        task.weights = weights;
        task.batch = 1;
        task.height = {1, 1, 1, 1, 1, 0, 0};
        task.width = {rows, rows, 1, 1, 1, 0, stride};
        task.channels = k;
        task.x_channel = 1;
        task.outputs = n;
        task.groups = groups;
        task.tf32 = tf32 != 0;
        if (by_library) {
            const std::vector<DenseProduct> dense = by_library == 1 ? all_dense_products(task) : dense_products(task);
            *products = static_cast<std::int64_t>(dense.size());
            CublasLt library(*cublas_lt());
            require(library.knows(dense), "layer", "the library has no algorithm");
            const DeviceBytes workspace = allocate_device(kDenseWorkspace);
            for (const DenseProduct& product : dense) library.multiply(product, workspace.get(), nullptr);
            return;
        }
        multiply_layer(task, {.multiprocessors = multiprocessors,
                              .shared_per_block = 232448,
                              .shared_per_multiprocessor = 233472,
                              .bytes_per_cycle = 20.7,
                              .warpgroups = false});
    });
}

// out [lanes, batch, m, n] = a [lanes, batch, m, k] b [lanes, batch, k, n], or b [lanes, batch, n, k] transposed; of a
// tangent rollout da b + a db. Bits of `shared`: a, b have no lanes.
const char* emulated_matmul(int precision, int transposed, int tangent, int shared, std::int64_t lanes,
                            std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k, void* a, void* b,
                            void* out) {
    return guarded([&] {
        MatmulTask task{};
        task.extent = {lanes, 1, tangent != 0};
        task.a = contiguous(precision, a, {batch, m, k});
        task.b = contiguous(precision, b, {batch, k, n});
        if (transposed) task.b.strides[1] = 1, task.b.strides[2] = k;
        if (shared & 1) task.a.lane_stride = 0;
        if (shared & 2) task.b.lane_stride = 0;
        task.out = contiguous(precision, out, {batch, m, n});
        product_kernels[precision].matmul(task);
    });
}
}
