#include "cuda/program/context.h"

#include <utility>

#include "cuda/check.h"

namespace tqs::cuda {
namespace {

constexpr const char* kName = "engine";

thread_local Context* current = nullptr;

}  // namespace

DeviceBytes allocate_device(std::int64_t bytes) {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, static_cast<std::size_t>(bytes > 0 ? bytes : 1));
    if (status == cudaErrorMemoryAllocation) {
        throw Error(message(kName, "the device has no ", bytes,
                            " bytes left; give a smaller memory_limit, or free what PyTorch keeps "
                            "(torch.cuda.empty_cache())"));
    }
    check_cuda(status, kName, "cudaMalloc");
    return DeviceBytes(memory);
}

const void* Context::constant(const void* host, std::int64_t bytes) {
    const auto size = static_cast<std::size_t>(bytes);
    std::string content(static_cast<const char*>(host), size);
    const auto found = constants_.find(content);
    if (found != constants_.end()) return found->second.get();
    DeviceBytes memory = allocate_device(bytes);
    check_cuda(cudaMemcpyAsync(memory.get(), host, size, cudaMemcpyHostToDevice, stream_), kName, "cudaMemcpyAsync");
    bytes_ += bytes;
    return constants_.emplace(std::move(content), std::move(memory)).first->second.get();
}

Context& context() {
    require(current != nullptr, kName, "no context: kernels of programs run within a ContextScope");
    return *current;
}

ContextScope::ContextScope(Context& scope) : previous_(std::exchange(current, &scope)) {}

ContextScope::~ContextScope() {
    current = previous_;
}

Operand on_device(const Operand& operand, std::int64_t lanes) {
    Operand result = operand;
    if (operand.lanes) result.lanes = context().constant(operand.lanes, lanes);
    return result;
}

}  // namespace tqs::cuda
