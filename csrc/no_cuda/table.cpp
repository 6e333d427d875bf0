// The CUDA backend of a build without CUDA: the same symbols, which say how to get the real ones.
#include "backend/device.h"
#include "backend/kernel_table.h"
#include "core/check.h"

namespace tqs::cuda {
namespace {

[[noreturn]] void refuse(const char* function) {
    throw Error(message(function,
                        "tqs-fast was built without CUDA; install the CUDA toolkit (nvcc on PATH) and run "
                        "`pip install . --config-settings=cmake.define.TQS_CUDA=ON`, or move the model to the "
                        "CPU"));
}

}  // namespace

bool built() {
    return false;
}

std::string architectures() {
    return {};
}

int device_count() {
    return 0;
}

std::string library() {
    return {};
}

bool has_qgemm(int) {
    return false;
}

std::int64_t prepacked_bytes(const PackedView&) {
    refuse("prepack");
}

void prepack(const PackedView&, std::uint8_t*, int, std::uintptr_t) {
    refuse("prepack");
}

void dequantize(const PackedView&, float*, int, std::uintptr_t) {
    refuse("dequantize");
}

std::int64_t qgemm(const QgemmTask&, DType, Activation, Workspace, int, std::uintptr_t) {
    refuse("qgemm");
}

std::int64_t attention(const AttentionTask&, std::int64_t, int, std::uintptr_t) {
    refuse("attention");
}

std::unique_ptr<tqs::Device> open(int, std::uintptr_t) {
    refuse("Program");
}

std::shared_ptr<const void> page_lock(const void*, std::int64_t, int) {
    refuse("Program");
}

void add_noise(const NoiseTask&, int, std::uintptr_t) {
    refuse("noise");
}

void round_weights(const RoundTask&, const ScaleRatios&, int, std::uintptr_t) {
    refuse("round");
}

const ProgramKernels& program_kernels() {
    refuse("Program");
}

}  // namespace tqs::cuda
