// What an interval of Benettin's method leaves per sample (csrc/growth/frames.cpp on the processor): log |R_ii|, the
// condition of R, or that the sample is to be set aside.
#pragma once

#include <cmath>
#include <limits>

#include "backend/device.h"
#include "cuda/device/orthonormalize.cuh"

namespace tqs::cuda {

struct StretchArgument {
    StretchTask task;
    std::int64_t chunks;
    const int* found;  // [samples, chunks]
    const double* r;   // [samples, K, K], by columns
};

// Shared memory: R with columns of norm 1, its inverse, and what a team needs.
static constexpr std::int64_t stretch_bytes(std::int64_t directions) {
    return (16 * directions * directions + team_bytes(Shape::block) + 127) / 128 * 128;
}

// Column j of R, upper triangle, to norm 1.
__device__ inline void scale_column(double* column, int j) {
    double largest = 0.0, sum = 0.0;
    for (int i = 0; i <= j; ++i) largest = std::fabs(column[i]) > largest ? std::fabs(column[i]) : largest;
    if (largest == 0.0) return;
    for (int i = 0; i <= j; ++i) sum = fused(column[i] / largest, column[i] / largest, sum);
    const double length = largest * std::sqrt(sum);
    for (int i = 0; i <= j; ++i) column[i] /= length;
}

// ||column j of R^-1||^2 by back substitution; element i of the column is at inverse[i * size].
__device__ inline double inverse_column(const double* r, double* inverse, int j, int size) {
    double total = 0.0;
    for (int i = 0; i < j; ++i) inverse[i * size] = 0.0;
    inverse[j * size] = 1.0;
    for (int i = j; i >= 0; --i) {
        const double x = inverse[i * size] / r[i * size + i];
        total = fused(x, x, total);
        for (int k = 0; k < i; ++k) inverse[k * size] = fused(-r[i * size + k], x, inverse[k * size]);
    }
    return total;
}

// A block per sample.
static __global__ void __launch_bounds__(kFrameThreads) note_stretching(const StretchArgument a) {
    begin_kernel();
    const StretchTask& t = a.task;
    const Team<Shape::block> team;
    const int thread = static_cast<int>(threadIdx.x), size = static_cast<int>(t.directions);
    const std::int64_t sample = blockIdx.x;
    auto* const r = reinterpret_cast<double*>(shared_memory() + team_bytes(Shape::block));
    double* const inverse = r + size * size;
    if (t.failed[sample] != 0) return;  // the whole block
    int found = 0;
    for (std::int64_t i = thread; i < a.chunks; i += kFrameThreads) found |= a.found[sample * a.chunks + i];
    found = team.all(found, shared_memory(), [](int x, int y) { return x | y; });
    const std::int64_t each = t.samples * size;
    double* const logs = t.logs + t.block * each + sample * size;
    if (found != 0) {
        if (thread == 0) {
            t.failed[sample] = 1;
            if (found & kStateNotFinite) {
                t.diverged[sample] = t.step;
            } else {
                t.condition[sample] = std::numeric_limits<double>::infinity();
            }
        }
        for (std::int64_t block = 0; block < t.blocks - t.block; ++block) {
            for (int k = thread; k < size; k += kFrameThreads) {
                logs[block * each + k] = std::numeric_limits<double>::quiet_NaN();
            }
        }
        return;
    }
    for (int i = thread; i < size * size; i += kFrameThreads) r[i] = a.r[sample * size * size + i];
    block_barrier();
    bool singular = false;
    for (int j = thread; j < size; j += kFrameThreads) {
        logs[j] += std::log(std::fabs(r[j * size + j]));
        singular = singular || r[j * size + j] == 0.0;
        scale_column(r + j * size, j);
    }
    block_barrier();
    double total = 0.0;
    for (int j = thread; j < size; j += kFrameThreads) total += inverse_column(r, inverse + j, j, size);
    // A column of length 0 has no inverse: 1 / 0, whatever the others add.
    total = team.all(singular ? std::numeric_limits<double>::infinity() : total, shared_memory(), Plus{});
    if (thread != 0) return;
    const double condition = std::sqrt(total / size);
    const bool measured = condition <= std::numeric_limits<double>::max();
    const double value = measured ? condition : std::numeric_limits<double>::infinity();
    if (value > t.condition[sample]) t.condition[sample] = value;
}

}  // namespace tqs::cuda
