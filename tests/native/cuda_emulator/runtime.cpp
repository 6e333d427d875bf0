#include <cuda_runtime_api.h>

#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "emulator.h"

using Work = std::function<void()>;

struct EmulatedGraph {
    std::vector<Work> works;
};
struct EmulatedGraphExec {
    std::vector<Work> works;
};
struct EmulatedStream {
    EmulatedGraph* captured = nullptr;
};

namespace {

std::mutex mutex;
std::map<void*, std::size_t> arrays;
std::size_t allocated = 0;
int capturing = 0;
constexpr std::size_t kTotal = std::size_t{1} << 32;

// cudaMalloc aligns to 256 bytes.
std::size_t padded(std::size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

}  // namespace

namespace emulator {

void submit(EmulatedStream* stream, const Work& work) {
    if (stream && stream->captured) {
        stream->captured->works.push_back(work);
    } else {
        work();
    }
}

std::size_t allocated_bytes() {
    const std::scoped_lock lock(mutex);
    return allocated;
}

}  // namespace emulator

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
    }
    return "unknown error";
}

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    return cudaSuccess;
}

// A small device: products of the sizes of tests take tiles of several sizes.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = 4;
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = 8;
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = 233472;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = 232448;
            break;
        case cudaDevAttrGlobalMemoryBusWidth:
            *value = 256;
            break;
        case cudaDevAttrClockRate:
        case cudaDevAttrMemoryClockRate:
            *value = 1000000;
            break;
    }
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* total) {
    *total = kTotal;
    *available = kTotal - emulator::allocated_bytes();
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    if (capturing > 0) return cudaErrorStreamCaptureUnsupported;
    const std::scoped_lock lock(mutex);
    if (allocated + padded(bytes) > kTotal) return cudaErrorMemoryAllocation;
    *memory = emulator::allocate(padded(bytes));
    arrays[*memory] = padded(bytes);
    allocated += padded(bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
    if (!memory) return cudaSuccess;
    const std::scoped_lock lock(mutex);
    const auto found = arrays.find(memory);
    emulator::release(memory, found->second);
    allocated -= found->second;
    arrays.erase(found);
    return cudaSuccess;
}

// Copies from the host read it at once, as from pageable memory; a graph may hold none of them.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (stream && stream->captured && kind != cudaMemcpyDefault) return cudaErrorStreamCaptureUnsupported;
    emulator::submit(stream, [=] { std::memcpy(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (stream && stream->captured && kind != cudaMemcpyDefault) return cudaErrorStreamCaptureUnsupported;
    emulator::submit(stream, [=] {
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                        width);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
    emulator::submit(stream, [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = new EmulatedStream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

// Work is done where it is submitted: there is nothing to wait for.
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = nullptr;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t) {
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stream && stream->captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream->captured = new EmulatedGraph;
    ++capturing;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = stream->captured;
    stream->captured = nullptr;
    --capturing;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new EmulatedGraphExec{graph->works};
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    for (const Work& work : executable->works) work();
    return cudaSuccess;
}
}
