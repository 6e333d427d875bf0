// The CUDA runtime on the processor: the device, its memory, and copies. Streams are streams.cpp.
//
// Pinned memory may not be touched by kernels: it is out of reach while one runs. A copy lies inside of
// pinned memory or outside of it: CUDA refuses one that does both ("cudaMemcpy" in its driver's manual). Its manual
// does not say whether it counts bytes or pages: here pages are pinned, and none twice.
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "emulator.h"
#include "streams.h"

using namespace emulator;

namespace {

std::map<void*, std::size_t> arrays;
std::map<void*, std::size_t> pinned;
std::size_t allocated = 0;
std::int64_t copies = 0;
constexpr std::size_t kTotal = std::size_t{1} << 32;
constexpr std::size_t kPitch = 1024;  // of a GPU 2^31 - 1

// cudaMalloc aligns to 256 bytes.
std::size_t padded(std::size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

// The beginning of the page in which it lies.
char* page_of(void* memory) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    return static_cast<char*>(memory) - address % static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
}

// Whether `memory` lies in one of `ranges`.
bool within(const std::map<void*, std::size_t>& ranges, const void* memory) {
    auto after = ranges.upper_bound(const_cast<void*>(memory));
    if (after == ranges.begin()) return false;
    const auto& [begin, bytes] = *--after;
    return static_cast<const char*>(memory) < static_cast<char*>(begin) + bytes;
}

// What a graph may copy: memory of the host may be gone when it is launched.
bool on_device(const void* to, const void* from) {
    return within(arrays, to) && within(arrays, from);
}

// Whether a part of memory is pinned and another part is not, or is pinned for itself.
bool partly_pinned(const void* memory, std::size_t bytes) {
    const char* const begin = static_cast<const char*>(memory);
    for (const auto& [other, size] : pinned) {
        const char* const first = static_cast<const char*>(other);
        if (first < begin + bytes && begin < first + size && (begin < first || begin + bytes > first + size))
            return true;
    }
    return false;
}

// A copy reads pageable memory of the host at once, pinned memory when it happens.
void copy(EmulatedStream* stream, const void* from, std::size_t bytes, const std::function<void(const void*)>& work) {
    const std::scoped_lock lock(runtime_mutex);
    ++copies;
    if (within(arrays, from) || within(pinned, from)) {
        submit(stream, [=] { work(from); });
        return;
    }
    const auto staged = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    submit(stream, [=] { work(staged->data()); });
}

}  // namespace

namespace emulator {

void reach_pinned(bool reachable) {
    for (const auto& [memory, bytes] : pinned) mprotect(memory, bytes, reachable ? PROT_READ | PROT_WRITE : PROT_NONE);
}

std::size_t allocated_bytes() {
    const std::scoped_lock lock(runtime_mutex);
    return allocated;
}

}  // namespace emulator

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorInvalidPitchValue:
            return "invalid pitch argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorHostMemoryAlreadyRegistered:
            return "part or all of the requested memory range is already mapped";
        case cudaErrorLaunchFailure:
            return failure_of_streams().c_str();
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated:
            return "operation failed due to a previous error during capture";
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

cudaError_t cudaDriverGetVersion(int* version) {
    *version = 13000;
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
            *value = capability;
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(shared_limit) + 1024;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(shared_limit);
            break;
        case cudaDevAttrMaxPitch:
            *value = static_cast<int>(kPitch);
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
    *available = kTotal - allocated_bytes();
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    if (spoils_capture()) return cudaErrorStreamCaptureUnsupported;
    const std::scoped_lock lock(runtime_mutex);
    if (allocated + padded(bytes) > kTotal) return cudaErrorMemoryAllocation;
    *memory = allocate(padded(bytes));
    arrays[*memory] = padded(bytes);
    allocated += padded(bytes);
    return cudaSuccess;
}

// Waits for the device, as there.
cudaError_t cudaFree(void* memory) {
    if (!memory) return cudaSuccess;
    if (spoils_capture()) return cudaErrorStreamCaptureUnsupported;
    const std::scoped_lock lock(runtime_mutex);
    run_all_streams();
    const auto found = arrays.find(memory);
    release(memory, found->second);
    allocated -= found->second;
    arrays.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned) {
    if (spoils_capture()) return cudaErrorStreamCaptureUnsupported;
    const std::scoped_lock lock(runtime_mutex);
    char* const begin = page_of(memory);
    char* const end = page_of(static_cast<char*>(memory) + bytes - 1) + sysconf(_SC_PAGESIZE);
    for (const auto& [other, size] : pinned) {
        if (static_cast<char*>(other) < end && begin < static_cast<char*>(other) + size)
            return cudaErrorHostMemoryAlreadyRegistered;
    }
    pinned[begin] = static_cast<std::size_t>(end - begin);
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* memory) {
    const std::scoped_lock lock(runtime_mutex);
    run_all_streams();
    pinned.erase(page_of(memory));
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    if (is_captured(stream) && !on_device(to, from) && spoils_capture()) return cudaErrorStreamCaptureUnsupported;
    if (partly_pinned(from, bytes) || partly_pinned(to, bytes)) return cudaErrorInvalidValue;
    copy(stream, from, bytes, [=](const void* source) { std::memmove(to, source, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t stream) {
    if (is_captured(stream) && !on_device(to, from) && spoils_capture()) return cudaErrorStreamCaptureUnsupported;
    if (from_pitch > kPitch || to_pitch > kPitch) return cudaErrorInvalidPitchValue;
    if (from_pitch < width || to_pitch < width) return cudaErrorInvalidPitchValue;
    if (partly_pinned(from, (height - 1) * from_pitch + width) || partly_pinned(to, (height - 1) * to_pitch + width))
        return cudaErrorInvalidValue;
    copy(stream, from, (height - 1) * from_pitch + width, [=](const void* source) {
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(source) + row * from_pitch,
                        width);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
    submit(stream, [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}

// To be found in the library that holds the runtime.
__attribute__((visibility("default"))) std::int64_t emulated_pinned_bytes() {
    std::int64_t bytes = 0;
    for (const auto& each : pinned) bytes += static_cast<std::int64_t>(each.second);
    return bytes;
}

// Since the last call.
__attribute__((visibility("default"))) std::int64_t emulated_copies() {
    return std::exchange(copies, 0);
}

// Of a block.
__attribute__((visibility("default"))) std::int64_t emulated_shared_bytes() {
    return static_cast<std::int64_t>(shared_limit);
}
}
