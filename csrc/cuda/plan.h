// Which kernel computes a product, how it is cut, and how much memory it works in. Plain C++: nothing here needs a GPU.
#pragma once

#include <cstdint>

#include "backend/kernel_table.h"
#include "core/dtype.h"
#include "quant/format.h"

namespace tqs::cuda {

enum class Kernel : int { simple = 0, gemv = 1, tiles = 2, warpgroups = 3 };

// What a plan depends on.
struct Problem {
    PackedView weight;  // its arrays are not read; zeros: null or not
    std::int64_t rows;  // M
    DType dtype;
    bool int8;
    bool aligned;  // x: 16-byte aligned, with a multiple of 8 elements between rows
};

Problem problem_of(const QgemmTask& task, DType dtype, bool int8);

// The device, in the units of the model.
struct Device {
    int multiprocessors;
    int shared_per_block, shared_per_multiprocessor;  // bytes
    double bytes_per_cycle;                           // of device memory, per multiprocessor
    bool warpgroups;                                  // their instructions are there, and our kernels for them
};

struct Plan {
    Kernel kernel = Kernel::simple;
    int bits = 0, group = 0;  // template arguments: 4 or 8; 32, 64, 128, or 0 (device/gemv.cuh)
    int columns = 0;          // rows of x per block
    int splits = 1;           // parts of K
    int output_blocks = 0, row_blocks = 0;
    double cycles = 0;  // what the model says
    // Bytes of the workspace and where its parts lie: counters (zero before and after every product), activations
    // (int8, or arranged), partial sums.
    std::int64_t activations = 0, partials = 0, workspace = 0;
};

// At most so many blocks of outputs share K: each has a counter. (Known to python/tqs_fast/_cuda.py.)
inline constexpr int kCounters = 4096;

// Whether the kernels on the prepacked form take the product: 16-bit rows that vectors of 8 fit, or int8 rows, whose
// sums of one scale per channel must fit an integer.
bool supports_prepacked(const Problem& problem);
// ... the one for few rows (8, or, of int8 rows in groups, any number: it is what shares their K), and the one that
// shares a weight among more. The model chooses: gemv reads x once per 16 outputs, which many outputs and 8 rows make
// more than the weight; tiles reads it once per 128.
bool supports_gemv(const Problem& problem);
bool supports_tiles(const Problem& problem);
// ... the same on the tensor cores of sm_90.
bool supports_warpgroups(const Problem& problem, const Device& device);

// What a plan must have, for tests and measurements; 0: as the model chooses.
struct Wanted {
    Kernel kernel = Kernel::simple;  // simple: any
    int columns = 0, splits = 0;
};

// The supported plan with the fewest cycles, by the model in plan.cpp; Kernel::simple where none is.
Plan choose_plan(const Problem& problem, const Device& device, const Wanted& wanted = {});

}  // namespace tqs::cuda
