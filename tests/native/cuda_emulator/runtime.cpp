// The CUDA runtime on the processor. A stream is a queue: nothing in it happens until the host waits for it, or for one
// whose work waits for it. What other streams may do meanwhile is up to a real GPU; here TQS_EMULATED_STREAMS says it:
//
//   late   (by default) nothing that nobody waits for: a missing wait reads what was there before
//   early  all they can before every single piece of work: a missing wait finds what it reads overwritten
//
// Pinned memory may not be touched by kernels: its whole pages are out of reach while one runs. A copy lies inside of
// pinned memory or outside of it: CUDA refuses one that does both ("cudaMemcpy" in its driver's manual), and knows what
// is pinned to the byte.
#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulator.h"

using Work = std::function<void()>;

// A record of an event: whether the work before it is done, and in which queue it is until then.
struct Record {
    EmulatedStream* stream;
    bool done;
};
struct EmulatedEvent {
    std::shared_ptr<Record> last;  // null: never recorded
};
struct EmulatedGraph {
    std::vector<Work> works;
};
struct EmulatedGraphExec {
    std::vector<Work> works;
};
// Work, or the record that follows it, or one that is to be done before what follows.
struct Item {
    Work work;
    std::shared_ptr<Record> reached, awaited;
};
struct EmulatedStream {
    EmulatedGraph* captured = nullptr;
    std::deque<Item> queue;
};

namespace {

std::recursive_mutex mutex;
std::map<void*, std::size_t> arrays;
std::map<void*, std::size_t> pinned;
std::set<EmulatedStream*> streams;
std::string failure;
std::size_t allocated = 0;
int capturing = 0;
std::int64_t graph_launches = 0;
constexpr std::size_t kTotal = std::size_t{1} << 32;
constexpr std::size_t kPitch = 1024;  // of a GPU 2^31 - 1

// cudaMalloc aligns to 256 bytes.
std::size_t padded(std::size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

// Whether `memory` lies in one of `ranges`.
bool within(const std::map<void*, std::size_t>& ranges, const void* memory) {
    auto after = ranges.upper_bound(const_cast<void*>(memory));
    if (after == ranges.begin()) return false;
    const auto& [begin, bytes] = *--after;
    return static_cast<const char*>(memory) < static_cast<char*>(begin) + bytes;
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

void protect_pinned(int protection) {
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    for (const auto& [memory, bytes] : pinned) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory);
        const std::uintptr_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
        if (begin < end) mprotect(reinterpret_cast<void*>(begin), end - begin, protection);
    }
}

void run_until(EmulatedStream& stream, const Record* wanted);

// Does the first piece of work of a stream; false where it must wait for another stream.
bool run_first(EmulatedStream& stream) {
    if (stream.queue.empty()) return false;
    const Item& first = stream.queue.front();
    if (first.awaited && !first.awaited->done) return false;
    const Item item = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (item.work) item.work();
    if (item.reached) item.reached->done = true;
    return true;
}

void run_others(const EmulatedStream& stream) {
    const char* order = std::getenv("TQS_EMULATED_STREAMS");
    if (!order || std::string(order) != "early") return;
    for (EmulatedStream* other : streams) {
        while (other != &stream && run_first(*other)) {
        }
    }
}

// Runs a stream up to a record of its own; null: to the end.
void run_until(EmulatedStream& stream, const Record* wanted) {
    while (!stream.queue.empty() && !(wanted && wanted->done)) {
        run_others(stream);
        if (stream.queue.empty() || (wanted && wanted->done)) return;
        const std::shared_ptr<Record> awaited = stream.queue.front().awaited;
        if (awaited && !awaited->done) {
            run_until(*awaited->stream, awaited.get());
            awaited->done = true;  // also where a failure has emptied that queue
        }
        run_first(stream);
    }
}

// As a kernel that fails: the error shows when something is waited for.
cudaError_t run(EmulatedStream* stream) {
    const std::scoped_lock lock(mutex);
    try {
        if (stream) run_until(*stream, nullptr);
    } catch (const std::exception& error) {
        failure = error.what();
        for (EmulatedStream* each : streams) each->queue.clear();
        return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

void enqueue(EmulatedStream* stream, Item item) {
    const std::scoped_lock lock(mutex);
    if (stream) {
        stream->queue.push_back(std::move(item));
    } else {
        if (item.work) item.work();
        if (item.reached) item.reached->done = true;
    }
}

// A copy reads pageable memory of the host at once, pinned memory when it happens.
void copy(EmulatedStream* stream, const void* from, std::size_t bytes, const std::function<void(const void*)>& work) {
    const std::scoped_lock lock(mutex);
    if (within(arrays, from) || within(pinned, from)) {
        emulator::submit(stream, [=] { work(from); });
        return;
    }
    const auto staged = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    emulator::submit(stream, [=] { work(staged->data()); });
}

}  // namespace

namespace emulator {

void submit(EmulatedStream* stream, const Work& work) {
    if (stream && stream->captured) {
        stream->captured->works.push_back(work);
    } else {
        enqueue(stream, {work, nullptr, nullptr});
    }
}

void submit_kernel(EmulatedStream* stream, const Work& kernel) {
    submit(stream, [kernel] {
        protect_pinned(PROT_NONE);
        try {
            kernel();
        } catch (...) {
            protect_pinned(PROT_READ | PROT_WRITE);
            throw;
        }
        protect_pinned(PROT_READ | PROT_WRITE);
    });
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
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorInvalidPitchValue:
            return "invalid pitch argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorHostMemoryAlreadyRegistered:
            return "part or all of the requested memory range is already mapped";
        case cudaErrorLaunchFailure:
            return failure.c_str();
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
            *value = emulator::capability;
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(emulator::shared_limit) + 1024;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(emulator::shared_limit);
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

// Waits for the device, as there.
cudaError_t cudaFree(void* memory) {
    if (!memory) return cudaSuccess;
    const std::scoped_lock lock(mutex);
    for (EmulatedStream* stream : streams) run(stream);
    const auto found = arrays.find(memory);
    emulator::release(memory, found->second);
    allocated -= found->second;
    arrays.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void* memory, std::size_t bytes, unsigned) {
    const std::scoped_lock lock(mutex);
    char* const begin = static_cast<char*>(memory);
    for (const auto& [other, size] : pinned) {
        if (static_cast<char*>(other) < begin + bytes && begin < static_cast<char*>(other) + size)
            return cudaErrorHostMemoryAlreadyRegistered;
    }
    pinned[memory] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* memory) {
    const std::scoped_lock lock(mutex);
    for (EmulatedStream* stream : streams) run(stream);
    pinned.erase(memory);
    return cudaSuccess;
}

// A graph may hold no copies from the host.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (stream && stream->captured && kind != cudaMemcpyDefault) return cudaErrorStreamCaptureUnsupported;
    if (partly_pinned(from, bytes) || partly_pinned(to, bytes)) return cudaErrorInvalidValue;
    copy(stream, from, bytes, [=](const void* source) { std::memmove(to, source, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (stream && stream->captured && kind != cudaMemcpyDefault) return cudaErrorStreamCaptureUnsupported;
    if (from_pitch > kPitch || to_pitch > kPitch) return cudaErrorInvalidPitchValue;
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
    emulator::submit(stream, [=] { std::memset(memory, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::scoped_lock lock(mutex);
    *stream = new EmulatedStream;
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::scoped_lock lock(mutex);
    const cudaError_t status = run(stream);
    streams.erase(stream);
    delete stream;
    return status;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new EmulatedEvent;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->last = std::make_shared<Record>(Record{stream, false});
    enqueue(stream, {nullptr, event->last, nullptr});
    return cudaSuccess;
}

// Of the last record by now, as there.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (event->last) enqueue(stream, {nullptr, nullptr, event->last});
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stream && stream->captured ? cudaErrorStreamCaptureUnsupported : run(stream);
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

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    ++graph_launches;
    for (const Work& work : executable->works) enqueue(stream, {work, nullptr, nullptr});
    return cudaSuccess;
}

// To be found in the library that holds the runtime.
__attribute__((visibility("default"))) std::int64_t emulated_pinned_bytes() {
    std::int64_t bytes = 0;
    for (const auto& each : pinned) bytes += static_cast<std::int64_t>(each.second);
    return bytes;
}

// Of a block.
__attribute__((visibility("default"))) std::int64_t emulated_shared_bytes() {
    return static_cast<std::int64_t>(emulator::shared_limit);
}

// Since the last call.
__attribute__((visibility("default"))) std::int64_t emulated_graph_launches() {
    return std::exchange(graph_launches, 0);
}
}
