// Streams, events and graphs of the CUDA runtime on the processor. A stream is a queue: nothing in it happens until the
// host waits for it, or for one whose work waits for it. What other streams may do meanwhile is up to a real GPU; here
// TQS_EMULATED_STREAMS says it:
//
//   late   (by default) nothing that nobody waits for: a missing wait reads what was there before
//   early  all they can before every single piece of work: a missing wait finds what it reads overwritten
#include "streams.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
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
    std::thread::id thread;  // that captures, in thread-local mode: others may do as they like
    bool spoilt = false;
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

std::recursive_mutex emulator::runtime_mutex;

namespace {

using emulator::runtime_mutex;
using emulator::spoils_capture;

std::set<EmulatedStream*> streams;
std::string failure;
std::int64_t graph_launches = 0, longest_queue = 0;

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
cudaError_t run(EmulatedStream* stream, const Record* wanted = nullptr) {
    const std::scoped_lock lock(runtime_mutex);
    try {
        if (stream) run_until(*stream, wanted);
    } catch (const std::exception& error) {
        failure = error.what();
        for (EmulatedStream* each : streams) each->queue.clear();
        return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

void enqueue(EmulatedStream* stream, Item item) {
    const std::scoped_lock lock(runtime_mutex);
    if (stream) {
        stream->queue.push_back(std::move(item));
        longest_queue = std::max(longest_queue, static_cast<std::int64_t>(stream->queue.size()));
    } else {
        if (item.work) item.work();
        if (item.reached) item.reached->done = true;
    }
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
        reach_pinned(false);
        try {
            kernel();
        } catch (...) {
            reach_pinned(true);
            throw;
        }
        reach_pinned(true);
    });
}

void run_all_streams() {
    for (EmulatedStream* stream : streams) run(stream);
}

bool is_captured(const EmulatedStream* stream) {
    return stream && stream->captured;
}

bool spoils_capture() {
    const std::scoped_lock lock(runtime_mutex);
    bool any = false;
    for (EmulatedStream* stream : streams) {
        if (!stream->captured || stream->captured->thread != std::this_thread::get_id()) continue;
        any = stream->captured->spoilt = true;
    }
    return any;
}

const std::string& failure_of_streams() {
    return failure;
}

}  // namespace emulator

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::scoped_lock lock(runtime_mutex);
    *stream = new EmulatedStream;
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::scoped_lock lock(runtime_mutex);
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
    return spoils_capture() ? cudaErrorStreamCaptureUnsupported : run(stream);
}

// Of an event that was never recorded, at once.
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (spoils_capture()) return cudaErrorStreamCaptureUnsupported;
    return event->last ? run(event->last->stream, event->last.get()) : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const std::scoped_lock lock(runtime_mutex);
    stream->captured = new EmulatedGraph{{}, std::this_thread::get_id()};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const std::scoped_lock lock(runtime_mutex);
    *graph = std::exchange(stream->captured, nullptr);
    if (!(*graph)->spoilt) return cudaSuccess;
    delete std::exchange(*graph, nullptr);
    return cudaErrorStreamCaptureInvalidated;
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

// Since the last call, as is the most work that waited in a stream. To be found in the library that holds the runtime.
__attribute__((visibility("default"))) std::int64_t emulated_graph_launches() {
    return std::exchange(graph_launches, 0);
}
__attribute__((visibility("default"))) std::int64_t emulated_longest_queue() {
    return std::exchange(longest_queue, 0);
}
}
