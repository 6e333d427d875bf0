#include "cuda/program/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/program/streams.h"

namespace tqs::cuda {
namespace {

// A part of memory from `first` on: what lies before the first of its whole pages, those, and what lies behind them.
struct Part {
    std::int64_t first, bytes;
};
std::array<Part, 3> by_pages(const void* memory, std::int64_t bytes) {
    static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(memory), end = begin + static_cast<std::uintptr_t>(bytes);
    const auto at = [&](std::uintptr_t address) {
        return static_cast<std::int64_t>(std::min(address, end) - begin);
    };
    const std::int64_t first = at((begin + page - 1) / page * page), last = std::max(first, at(end / page * page));
    return {{{0, first}, {first, last - first}, {last, bytes - last}}};
}

class CopyStream : public Feed {
  public:
    CopyStream(int device, cudaStream_t work, int numbers)
        : device_(device), work_(work), copies_(work), arrived_(static_cast<std::size_t>(numbers)) {}

    void copy(int number, char* to, const void* from, std::int64_t bytes) override {
        const DeviceScope scope(kEngine, device_);
        enqueued_.record(work_);
        enqueued_.await(copies_.get());
        copy_to_device(to, from, bytes, copies_.get());
        arrived_[static_cast<std::size_t>(number)].record(copies_.get());
    }

    void await(int number) override {
        const DeviceScope scope(kEngine, device_);
        arrived_[static_cast<std::size_t>(number)].await(work_);
    }

  private:
    int device_;
    cudaStream_t work_;
    Event enqueued_;
    Stream copies_;  // its end waits for the last copy
    std::vector<Event> arrived_;
};

}  // namespace

// Locked are whole pages, and CUDA refuses to copy what is locked in part.
void copy_to_device(char* to, const void* from, std::int64_t bytes, cudaStream_t stream) {
    for (const Part& part : by_pages(from, bytes)) {
        if (part.bytes == 0) continue;
        check_cuda(cudaMemcpyAsync(to + part.first, static_cast<const char*>(from) + part.first,
                                   static_cast<std::size_t>(part.bytes), cudaMemcpyDefault, stream),
                   kEngine, "cudaMemcpyAsync");
    }
}

std::unique_ptr<Feed> open_feed(int device, cudaStream_t work, int numbers) {
    return std::make_unique<CopyStream>(device, work, numbers);
}

std::shared_ptr<const void> page_lock(const void* memory, std::int64_t bytes, int device) {
    // Programs that share weights share their lock, too.
    static std::mutex mutex;
    static std::map<std::pair<const void*, std::int64_t>, std::weak_ptr<const void>> known;
    const Part pages = by_pages(memory, bytes)[1];
    if (pages.bytes == 0) return nullptr;
    const std::scoped_lock lock(mutex);
    std::weak_ptr<const void>& own = known[{memory, bytes}];
    if (std::shared_ptr<const void> held = own.lock()) return held;
    const DeviceScope scope(kEngine, device);
    void* const begin = static_cast<char*>(const_cast<void*>(memory)) + pages.first;
    const cudaError_t status = cudaHostRegister(begin, static_cast<std::size_t>(pages.bytes), cudaHostRegisterPortable);
    if (status != cudaSuccess) cudaGetLastError();  // what is told here is not for the next check to find
    if (status == cudaErrorHostMemoryAlreadyRegistered) return nullptr;
    require(status == cudaSuccess, kEngine, "cannot page-lock ", pages.bytes, " bytes of weights (",
            cudaGetErrorString(status),
            "); copy weights that are mapped from a file (`parameter.data = parameter.data.clone()`), or move the "
            "module to the device");
    std::shared_ptr<const void> held(begin, [](void* locked) { cudaHostUnregister(locked); });
    own = held;
    return held;
}

}  // namespace tqs::cuda
