#include "core/parallel.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "core/check.h"

namespace tqs {
namespace {

constexpr int kMostThreads = 1024;
constexpr std::chrono::milliseconds kWaitingInterval{10};
// How long a thread looks for what it waits for before it sleeps: waking one takes some 40 us, twice per job, which is
// a tenth of a short rollout; this spans what Python does between two of them.
constexpr std::chrono::microseconds kPatience{200};

// Until `ready`, or out of patience. Whoever else could use the processor gets it.
template <class Ready>
void linger(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!ready() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

struct Job {
    const std::function<void(std::int64_t, std::int64_t)>* body;
    std::int64_t units;
    std::int64_t pieces;
    std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> finished{0};  // written under the mutex
    std::exception_ptr failure;             // guarded by it
    std::mutex mutex;
    std::condition_variable done;
};

thread_local bool inside_job = false;

// Runs pieces until none is left to claim.
void work_on(Job& job) {
    const bool outer = std::exchange(inside_job, true);
    for (std::int64_t piece; (piece = job.next.fetch_add(1)) < job.pieces;) {
        std::exception_ptr failure;
        try {
            (*job.body)(job.units* piece / job.pieces, job.units * (piece + 1) / job.pieces);
        } catch (...) {  // carried to the caller's thread, where it is rethrown
            failure = std::current_exception();
        }
        const std::lock_guard lock(job.mutex);
        if (failure && !job.failure) job.failure = failure;
        if (++job.finished == job.pieces) job.done.notify_all();
    }
    inside_job = outer;
}

class Pool {
  public:
    void submit(const std::shared_ptr<Job>& job) {
        const std::lock_guard lock(mutex_);
        const auto helpers = static_cast<int>(job->pieces) - 1;
        try {
            for (; workers_ < helpers; ++workers_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            // The system grants no more threads; those that exist and the caller do the work.
        }
        for (int helper = 0; helper < helpers; ++helper) queue_.push_back(job);
        waiting_.store(static_cast<int>(queue_.size()), std::memory_order_relaxed);
        wake_.notify_all();
    }

  private:
    void serve() {
        for (;;) {
            std::shared_ptr<Job> job;
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [this] { return !queue_.empty(); });
                job = std::move(queue_.front());
                queue_.pop_front();
                waiting_.store(static_cast<int>(queue_.size()), std::memory_order_relaxed);
            }
            work_on(*job);
            job.reset();
            linger([this] { return waiting_.load(std::memory_order_relaxed) > 0; });
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::shared_ptr<Job>> queue_;
    std::atomic<int> waiting_{0};  // jobs in the queue, written under the mutex
    int workers_ = 0;
};

// Never destroyed: detached workers may wait on it until the process is gone.
std::atomic<Pool*> current_pool{nullptr};

// A forked child has one thread and possibly a locked mutex: it leaves the parent's pool behind and starts its own.
void forget_pool() {
    current_pool.store(nullptr);
    inside_job = false;
}

Pool& pool() {
#if defined(__unix__) || defined(__APPLE__)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    static_cast<void>(registered);
#endif
    Pool* existing = current_pool.load();
    if (existing) return *existing;
    auto fresh = std::make_unique<Pool>();
    if (current_pool.compare_exchange_strong(existing, fresh.get())) existing = fresh.release();
    return *existing;
}

}  // namespace

int default_threads() {
    static const int chosen = [] {
        if (const char* text = std::getenv("TQS_THREADS"); text && *text) {
            char* end = nullptr;
            const long value = std::strtol(text, &end, 10);
            require(*end == '\0' && value >= 1 && value <= kMostThreads, "parallel_for",
                    "TQS_THREADS must be a number from 1 to ", kMostThreads, ", got '", text, "'");
            return static_cast<int>(value);
        }
        return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostThreads);
    }();
    return chosen;
}

int worthwhile_threads(std::int64_t work, std::int64_t grain, int threads) {
    const std::int64_t most = threads == 0 ? default_threads() : threads;
    return static_cast<int>(std::clamp<std::int64_t>(work / grain, 1, std::max<std::int64_t>(most, 1)));
}

void parallel_for(std::int64_t units, int threads, const std::function<void(std::int64_t, std::int64_t)>& body,
                  const std::function<void()>& waiting) {
    require(threads >= 0 && threads <= kMostThreads, "parallel_for", "expected 0 to ", kMostThreads, " threads, got ",
            threads);
    if (units <= 0) return;
    const std::int64_t pieces = std::min<std::int64_t>(threads == 0 ? default_threads() : threads, units);
    if (pieces == 1 || inside_job) {
        body(0, units);
        return;
    }
    const auto job = std::make_shared<Job>();
    job->body = &body;
    job->units = units;
    job->pieces = pieces;
    pool().submit(job);
    work_on(*job);
    const auto finished = [&] {
        return job->finished.load() == job->pieces;
    };
    linger(finished);
    std::unique_lock lock(job->mutex);
    while (waiting && !job->done.wait_for(lock, kWaitingInterval, finished)) {
        lock.unlock();
        waiting();
        lock.lock();
    }
    job->done.wait(lock, finished);
    if (job->failure) std::rethrow_exception(job->failure);
}

}  // namespace tqs
