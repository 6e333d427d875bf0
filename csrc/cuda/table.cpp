// The CUDA backend as the callers see it (backend/kernel_table.h). Its twin is no_cuda/table.cpp.
#include "backend/device.h"
#include "cuda/check.h"
#include "cuda/device_properties.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/plan.h"
#include "cuda/program/context.h"
#include "cuda/program/cublas_lt.h"
#include "cuda/program/kernels.h"
#include "cuda/program/variants.h"

namespace tqs::cuda {

template <class Work>
static void on_stream(int device, std::uintptr_t stream, const Work& work) {
    const DeviceScope scope("engine", device);
    // Streams of others are left as they are expected to be: who captures one may not know edges of early launches.
    Context context(reinterpret_cast<cudaStream_t>(stream), false);
    const ContextScope current(context);
    work();
}

bool built() {
    return true;
}

std::string architectures() {
    return TQS_CUDA_ARCHITECTURES;
}

std::string library() {
    const lt::Library* const found = cublas_lt();
    return found ? found->path : "";
}

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();  // no driver or no device is an answer here; do not leave it for the next check to find
    return 0;
}

bool has_qgemm(int bits) {
    return format_index(bits) >= 0;
}

std::int64_t prepacked_bytes(const PackedView& weight) {
    return weight_layout(weight).bytes;
}

void prepack(const PackedView& weight, std::uint8_t* out, int device, std::uintptr_t stream) {
    const DeviceScope scope("prepack", device);
    prepack_weight(weight, out, reinterpret_cast<cudaStream_t>(stream));
}

void dequantize(const PackedView& weight, float* out, int device, std::uintptr_t stream) {
    const DeviceScope scope("dequantize", device);
    dequantize_weight(weight, out, reinterpret_cast<cudaStream_t>(stream));
}

std::int64_t qgemm(const QgemmTask& task, DType dtype, Activation activation, Workspace workspace, int device,
                   std::uintptr_t stream) {
    require(task.weight.rows <= std::int64_t{1} << 32, "qgemm",
            "the CUDA kernel takes at most 2^32 output columns, got ", task.weight.rows);
    const DeviceScope scope("qgemm", device);
    const Device properties = properties_of(device);
    const Plan plan =
        task.panels ? choose_plan(problem_of(task, dtype, activation == Activation::int8), properties) : Plan{};
    if (plan.kernel == Kernel::simple) {
        require(activation != Activation::int8, "qgemm",
                "int8 activations on CUDA want a prepacked weight, fewer than 2^20 rows, and at most ", kSpan,
                " inputs for one scale per channel; got ", task.rows, " rows of ", task.weight.columns,
                " inputs; use groups, or float activations");
        multiply_simple(task, dtype, properties, reinterpret_cast<cudaStream_t>(stream));
        return 0;
    }
    if (workspace.size < plan.workspace) return plan.workspace;
    multiply_prepacked(task, plan, dtype, activation == Activation::int8, workspace.bytes,
                       reinterpret_cast<cudaStream_t>(stream));
    return 0;
}

void add_noise(const NoiseTask& task, int device, std::uintptr_t stream) {
    on_stream(device, stream, [&] { add_noise(task); });
}

void round_weights(const RoundTask& task, const ScaleRatios& ratios, int device, std::uintptr_t stream) {
    on_stream(device, stream, [&] { round_weights(task, ratios); });
}

std::int64_t attention(const AttentionTask& task, std::int64_t scratch_bytes, int device, std::uintptr_t stream) {
    const AttentionKernels& kernels = attention_kernels[static_cast<int>(task.out.precision)];
    if (const std::int64_t wanted = kernels.attention_scratch(task); wanted > scratch_bytes) return wanted;
    on_stream(device, stream, [&] { kernels.attention(task); });
    return 0;
}

}  // namespace tqs::cuda
