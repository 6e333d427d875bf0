// Streams of our own and the events that order them.
#pragma once

#include "cuda/check.h"

namespace tqs::cuda {

inline constexpr const char* kEngine = "engine";  // who calls, in errors

class Event {
  public:
    Event() {
        check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), kEngine, "cudaEventCreateWithFlags");
    }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    // Until what came before the last record, if there is one, is done.
    void wait() const { check_cuda(cudaEventSynchronize(event_), kEngine, "cudaEventSynchronize"); }
    void record(cudaStream_t stream) const { check_cuda(cudaEventRecord(event_, stream), kEngine, "cudaEventRecord"); }
    // What is enqueued on `stream` from now on comes after the last record.
    void await(cudaStream_t stream) const {
        check_cuda(cudaStreamWaitEvent(stream, event_, 0), kEngine, "cudaStreamWaitEvent");
    }

  private:
    cudaEvent_t event_ = nullptr;
};

// Work that comes after what is enqueued on `caller`.
class Stream {
  public:
    explicit Stream(cudaStream_t caller) {
        const Event before;
        check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), kEngine, "cudaStreamCreateWithFlags");
        before.record(caller);
        before.await(stream_);
    }
    ~Stream() {
        cudaStreamSynchronize(stream_);
        cudaStreamDestroy(stream_);
    }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    cudaStream_t get() const { return stream_; }

  private:
    cudaStream_t stream_ = nullptr;
};

}  // namespace tqs::cuda
