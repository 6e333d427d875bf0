// cuBLASLt for the emulator, as csrc/cuda/program/cublas_lt_api.h has it: plain loops over what was described, in
// float64, the last term first (so that bits tell who computed), at the time the stream comes to it. Checked: that
// leading dimensions hold a column, that shapes agree, that addresses are aligned as was promised, that the algorithm
// is the one for this problem, and the workspace, which is written from end to end.
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/device/elements.cuh"
#include "cuda/program/cublas_lt_api.h"
#include "emulator.h"

namespace tqs::cuda::lt {

struct OpaqueHandle {};
struct OpaqueOperation {
    Compute compute;
    Type scale;
    std::int32_t transpose[2] = {kAsItIs, kAsItIs};
    std::uint32_t epilogue = kNothing;
    const void* bias = nullptr;
};
struct OpaqueLayout {
    Type type;
    std::int64_t rows, columns, leading;
};
struct OpaquePreference {
    std::uint64_t workspace = 0;
    std::uint32_t schemes = 7, alignment[4] = {256, 256, 256, 256};
};

namespace {

constexpr int kInvalidValue = 7;
constexpr std::size_t kWantedWorkspace = 1 << 20;
int calls = 0;

double load(Type type, const void* data, std::int64_t index) {
    switch (type) {
        case kFloat32:
            return static_cast<const float*>(data)[index];
        case kFloat64:
            return static_cast<const double*>(data)[index];
        case kFloat16:
            return to_float(static_cast<const Float16*>(data)[index]);
        case kBfloat16:
            return to_float(static_cast<const Bfloat16*>(data)[index]);
    }
    return NAN;
}

void store_as(Type type, void* data, std::int64_t index, double value) {
    switch (type) {
        case kFloat32:
            static_cast<float*>(data)[index] = static_cast<float>(value);
            break;
        case kFloat64:
            static_cast<double*>(data)[index] = value;
            break;
        case kFloat16:
            store(static_cast<Float16*>(data) + index, static_cast<float>(value));
            break;
        case kBfloat16:
            store(static_cast<Bfloat16*>(data) + index, static_cast<float>(value));
            break;
    }
}

template <class Value, class Stored>
int set(Stored& to, const void* value, std::size_t bytes) {
    if (bytes != sizeof(Value)) return kInvalidValue;
    Value copied;
    std::memcpy(&copied, value, sizeof copied);
    to = copied;
    return kSuccess;
}

int operation_set(Operation operation, OperationAttribute attribute, const void* value, std::size_t bytes) {
    switch (attribute) {
        case kTransposeA:
            return set<std::int32_t>(operation->transpose[0], value, bytes);
        case kTransposeB:
            return set<std::int32_t>(operation->transpose[1], value, bytes);
        case kEpilogue:
            return set<std::uint32_t>(operation->epilogue, value, bytes);
        case kBiasPointer:
            return set<const void*>(operation->bias, value, bytes);
    }
    return kInvalidValue;
}

int preference_set(Preference preference, PreferenceAttribute attribute, const void* value, std::size_t bytes) {
    switch (attribute) {
        case kMostWorkspace:
            return set<std::uint64_t>(preference->workspace, value, bytes);
        case kReductionSchemes:
            return set<std::uint32_t>(preference->schemes, value, bytes);
        case kAlignmentA:
        case kAlignmentB:
        case kAlignmentC:
        case kAlignmentD:
            return set<std::uint32_t>(preference->alignment[attribute - kAlignmentA], value, bytes);
    }
    return kInvalidValue;
}

// Whether layers ask for it.
bool is_asked(Type type, Compute compute) {
    if (type == kFloat32) return compute == kExactlyIn32 || compute == kInTf32;
    return compute == (type == kFloat64 ? kIn64 : kIn32);
}

// What tensor cores take of a float: the upper ten bits of its mantissa.
double in_tf32(double value) {
    const auto narrow = static_cast<float>(value);
    std::uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    bits &= ~std::uint32_t{0x1FFF};
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

struct Problem {
    std::int64_t rows, columns, depth;
};

// Of op(a) op(b) = d; depth -1 where that cannot be.
Problem problem_of(const OpaqueOperation& operation, Layout a, Layout b, Layout c, Layout d) {
    const bool left = operation.transpose[0] == kTransposed, right = operation.transpose[1] == kTransposed;
    const Problem problem{left ? a->columns : a->rows, right ? b->rows : b->columns, left ? a->rows : a->columns};
    bool fits = problem.depth == (right ? b->columns : b->rows) && d->rows == problem.rows &&
                d->columns == problem.columns && c->rows == d->rows && c->columns == d->columns;
    for (const Layout layout : {a, b, c, d}) fits = fits && layout->leading >= layout->rows && layout->type == d->type;
    return fits ? problem : Problem{0, 0, -1};
}

// What makes an algorithm one for this problem and no other.
Algorithm algorithm_of(const OpaqueOperation& operation, const Problem& problem, Layout a, Layout b, Layout d,
                       std::uint64_t alignment) {
    const auto number = [](std::int64_t value) {
        return static_cast<std::uint64_t>(value);
    };
    const auto settings =
        number(operation.transpose[0] + 2 * operation.transpose[1] + 4 * operation.compute) * 16 + operation.epilogue;
    return {{number(problem.rows), number(problem.columns), number(problem.depth), number(a->leading),
             number(b->leading), number(d->leading), alignment, settings}};
}

int heuristic(Handle, Operation operation, Layout a, Layout b, Layout c, Layout d, Preference preference, int wanted,
              Heuristic* results, int* found) {
    const Problem problem = problem_of(*operation, a, b, c, d);
    *found = 0;
    if (problem.depth < 0 || wanted < 1) return kInvalidValue;
    if (!is_asked(d->type, operation->compute) || operation->scale != (d->type == kFloat64 ? kFloat64 : kFloat32)) {
        return kNotSupported;
    }
    std::uint32_t alignment = 256;
    for (const std::uint32_t own : preference->alignment) alignment = own < alignment ? own : alignment;
    if (preference->workspace < kWantedWorkspace || preference->schemes != kPartsAsComputed || alignment < 16) {
        return kNotSupported;
    }
    results[0] = {};
    results[0].algorithm = algorithm_of(*operation, problem, a, b, d, alignment);
    results[0].workspace = kWantedWorkspace;
    *found = 1;
    return kSuccess;
}

bool is_aligned(const void* address, std::uint64_t alignment) {
    return reinterpret_cast<std::uintptr_t>(address) % alignment == 0;
}

int matmul(Handle, Operation operation, const void* alpha, const void* a, Layout a_layout, const void* b,
           Layout b_layout, const void* beta, const void* c, Layout c_layout, void* d, Layout d_layout,
           const Algorithm* algorithm, void* workspace, std::size_t bytes, cudaStream_t stream) {
    const Problem problem = problem_of(*operation, a_layout, b_layout, c_layout, d_layout);
    if (problem.depth < 0) return kInvalidValue;
    const std::uint64_t alignment = algorithm->data[6];
    const Algorithm own = algorithm_of(*operation, problem, a_layout, b_layout, d_layout, alignment);
    if (std::memcmp(&own, algorithm, sizeof own) != 0) return kInvalidValue;
    for (const void* address : {a, b, c, static_cast<const void*>(d)}) {
        if (!is_aligned(address, alignment)) return kInvalidValue;
    }
    if (!workspace || !is_aligned(workspace, 16) || bytes < kWantedWorkspace) return kInvalidValue;
    ++calls;
    const OpaqueOperation o = *operation;
    const OpaqueLayout x = *a_layout, y = *b_layout, z = *c_layout, out = *d_layout;
    const double scale = load(o.scale, alpha, 0), kept = load(o.scale, beta, 0);
    const auto operand = [=](Type type, const void* data, std::int64_t index) {
        const double value = load(type, data, index);
        return o.compute == kInTf32 ? in_tf32(value) : value;
    };
    emulator::submit(stream, [=] {
        std::memset(workspace, 0xFF, bytes);
        std::vector<double> left(static_cast<std::size_t>(problem.depth));
        for (std::int64_t row = 0; row < problem.rows; ++row) {
            for (std::int64_t k = 0; k < problem.depth; ++k) {
                left[static_cast<std::size_t>(k)] =
                    operand(x.type, a, o.transpose[0] == kTransposed ? k + row * x.leading : row + k * x.leading);
            }
            for (std::int64_t column = 0; column < problem.columns; ++column) {
                double sum = 0;
                for (std::int64_t k = problem.depth - 1; k >= 0; --k) {
                    sum += left[static_cast<std::size_t>(k)] *
                           operand(y.type, b,
                                   o.transpose[1] == kTransposed ? column + k * y.leading : k + column * y.leading);
                }
                sum *= scale;
                if (kept != 0) sum += kept * load(z.type, c, row + column * z.leading);
                if (o.epilogue == kBias) sum += load(out.type, o.bias, row);
                store_as(out.type, d, row + column * out.leading, sum);
            }
        }
    });
    return kSuccess;
}

template <class Opaque>
int destroy(Opaque* opaque) {
    delete opaque;
    return kSuccess;
}

}  // namespace

const Library* find_library() {
    static const Library library{{.create = [](Handle* handle) -> int { return *handle = new OpaqueHandle, kSuccess; },
                                  .destroy = destroy<OpaqueHandle>,
                                  .operation_create = [](Operation* operation, Compute compute, Type scale) -> int {
                                      return *operation = new OpaqueOperation{compute, scale}, kSuccess;
                                  },
                                  .operation_destroy = destroy<OpaqueOperation>,
                                  .operation_set = operation_set,
                                  .layout_create = [](Layout* layout, Type type, std::uint64_t rows,
                                                      std::uint64_t columns, std::int64_t leading) -> int {
                                      *layout = new OpaqueLayout{type, static_cast<std::int64_t>(rows),
                                                                 static_cast<std::int64_t>(columns), leading};
                                      return kSuccess;
                                  },
                                  .layout_destroy = destroy<OpaqueLayout>,
                                  .preference_create = [](Preference* preference) -> int {
                                      return *preference = new OpaquePreference, kSuccess;
                                  },
                                  .preference_destroy = destroy<OpaquePreference>,
                                  .preference_set = preference_set,
                                  .heuristic = heuristic,
                                  .matmul = matmul},
                                 "emulated"};
    return &library;
}

}  // namespace tqs::cuda::lt

// Products of the library since the last call.
extern "C" int emulated_library_calls() {
    const int count = tqs::cuda::lt::calls;
    tqs::cuda::lt::calls = 0;
    return count;
}
