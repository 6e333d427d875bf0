// Where the kernels of programs run. A kernel of backend/program_kernels.h is a function of its task alone; for the GPU
// that function launches, and takes the rest from the context of the calling thread: the stream, and the way in which
// what a task points to gets to the device.
//
// Of a task, `Operand::data`, `scratch` and everything an operand's lane table points to are addresses on the device.
// All else that it points to is memory of the host that lives until the function returns: arrays of operands, lane
// tables (Operand::lanes), code, output registers, jacobians, runs. Small and fixed things travel as the kernel's
// argument (at most 4 KB of it), the others through `constant`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "backend/program_kernels.h"

namespace tqs::cuda {

struct FreeDevice {
    void operator()(void* memory) const { cudaFree(memory); }
};
using DeviceBytes = std::unique_ptr<void, FreeDevice>;

// 256-byte aligned, on the current device. Throws Error where there is not so much.
DeviceBytes allocate_device(std::int64_t bytes);

class Context {
  public:
    Context(cudaStream_t stream, bool overlaps) : stream_(stream), overlaps_(overlaps) {}

    cudaStream_t stream() const { return stream_; }
    // Whether a kernel may be launched before the one before it has ended (launch.cuh).
    bool overlaps() const { return overlaps_; }

    // Where the device has these bytes, 256-byte aligned, until the context ends. Equal bytes have one address and are
    // copied once: a step that has run before asks for nothing new, which is what lets it be captured as a graph.
    const void* constant(const void* host, std::int64_t bytes);
    template <class T>
    const T* constant(const T* host, std::int64_t count) {
        return static_cast<const T*>(constant(static_cast<const void*>(host), count * std::int64_t{sizeof(T)}));
    }

    // Bytes that constants take on the device.
    std::int64_t bytes() const { return bytes_; }

  private:
    cudaStream_t stream_;
    bool overlaps_;
    std::unordered_map<std::string, DeviceBytes> constants_;
    std::int64_t bytes_ = 0;
};

// Of the calling thread; there is one (ContextScope).
Context& context();

// Makes `current` the context of this thread while it lives.
class ContextScope {
  public:
    explicit ContextScope(Context& current);
    ~ContextScope();
    ContextScope(const ContextScope&) = delete;
    ContextScope& operator=(const ContextScope&) = delete;

  private:
    Context* previous_;
};

// The operand as a kernel takes it: its lane table, if it has one, on the device. `lanes` as in Extent.
Operand on_device(const Operand& operand, std::int64_t lanes);

}  // namespace tqs::cuda
