// What a kernel of products of two activations is told of a MatmulTask, whichever computes it.
#pragma once

#include "cuda/check.h"
#include "cuda/device/lanes.cuh"
#include "cuda/device/loops.cuh"
#include "cuda/device_properties.h"
#include "cuda/program/context.h"

namespace tqs::cuda {

template <class Argument>
Argument matmul_argument(const MatmulTask& task) {
    const Operand* const operands[] = {&task.a, &task.b, &task.out};
    const int rank = task.out.rank;
    const std::int64_t lanes = task.extent.lanes;
    Nest<3> nest;
    nest.add(task.extent.samples, 3, [&](int k) { return operands[k]->sample_stride; });
    for (int axis = 0; axis + 2 < rank; ++axis) {
        nest.add(task.out.sizes[axis], 3, [&](int k) { return axis_stride(*operands[k], axis); });
    }
    Argument p{};
    p.batches = nest.loops("matmul", 3);
    p.a = lanes_of(on_device(task.a, lanes));
    p.b = lanes_of(on_device(task.b, lanes));
    p.out = lanes_of(task.out);
    p.tangent = task.extent.tangent;
    p.rows = static_cast<decltype(p.rows)>(task.out.sizes[rank - 2]);
    p.columns = static_cast<decltype(p.columns)>(task.out.sizes[rank - 1]);
    p.depth = static_cast<decltype(p.depth)>(task.a.sizes[rank - 1]);
    p.a_row = task.a.strides[rank - 2];
    p.out_row = task.out.strides[rank - 2];
    return p;
}

// Of the calling thread.
inline Device current_device() {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "matmul", "cudaGetDevice");
    return properties_of(device);
}

}  // namespace tqs::cuda
