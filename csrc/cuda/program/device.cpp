// The GPU as a place of programs (backend/device.h): a stream of its own, memory that is kept for the next tile,
// graphs.
#include "backend/device.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <vector>

#include "cuda/check.h"
#include "cuda/device_properties.h"
#include "cuda/kernels.h"
#include "cuda/program/context.h"
#include "cuda/program/cublas_lt.h"
#include "cuda/program/kernels.h"
#include "cuda/program/layer.h"
#include "cuda/program/packed_layer.h"
#include "cuda/program/steps.h"
#include "cuda/program/stretching.h"
#include "cuda/program/variants.h"

namespace tqs::cuda {
namespace {

constexpr const char* kName = "engine";

// A graph of what one step enqueues: launching it costs the processor one call, whatever number of kernels it holds.
class Graph : public Replay {
  public:
    Graph(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
        const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
        cudaGraphDestroy(graph);
        check_cuda(status, kName, "cudaGraphInstantiate");
    }
    ~Graph() override { cudaGraphExecDestroy(executable_); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void run() override { check_cuda(cudaGraphLaunch(executable_, stream_), kName, "cudaGraphLaunch"); }

  private:
    cudaStream_t stream_;
    cudaGraphExec_t executable_ = nullptr;
};

class Event {
  public:
    Event() {
        check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), kName, "cudaEventCreateWithFlags");
    }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    // Until what came before the last record, if there is one, is done.
    void wait() const { check_cuda(cudaEventSynchronize(event_), kName, "cudaEventSynchronize"); }
    void record(cudaStream_t stream) const { check_cuda(cudaEventRecord(event_, stream), kName, "cudaEventRecord"); }
    // What is enqueued on `stream` from now on comes after the last record.
    void await(cudaStream_t stream) const {
        check_cuda(cudaStreamWaitEvent(stream, event_, 0), kName, "cudaStreamWaitEvent");
    }

  private:
    cudaEvent_t event_ = nullptr;
};

// Work that comes after what is enqueued on `caller`.
class Stream {
  public:
    explicit Stream(cudaStream_t caller) {
        const Event before;
        check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), kName, "cudaStreamCreateWithFlags");
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

// Of memory of this process: CUDA refuses to copy what is page-locked in part, and locked are whole pages.
void copy_by_pages(char* to, const void* from, std::int64_t bytes, cudaStream_t stream) {
    for (const Part& part : by_pages(from, bytes)) {
        if (part.bytes == 0) continue;
        check_cuda(cudaMemcpyAsync(to + part.first, static_cast<const char*>(from) + part.first,
                                   static_cast<std::size_t>(part.bytes), cudaMemcpyDefault, stream),
                   kName, "cudaMemcpyAsync");
    }
}

// Copies on a stream of their own.
class CopyStream : public Feed {
  public:
    CopyStream(int device, cudaStream_t work, int numbers)
        : device_(device), work_(work), copies_(work), arrived_(static_cast<std::size_t>(numbers)) {}

    void copy(int number, char* to, const void* from, std::int64_t bytes) override {
        const DeviceScope scope(kName, device_);
        enqueued_.record(work_);
        enqueued_.await(copies_.get());
        copy_by_pages(to, from, bytes, copies_.get());
        arrived_[static_cast<std::size_t>(number)].record(copies_.get());
    }

    void await(int number) override {
        const DeviceScope scope(kName, device_);
        arrived_[static_cast<std::size_t>(number)].await(work_);
    }

  private:
    int device_;
    cudaStream_t work_;
    Event enqueued_;
    Stream copies_;  // its end waits for the last copy
    std::vector<Event> arrived_;
};

class Gpu : public tqs::Device {
  public:
    Gpu(int device, cudaStream_t caller)
        : device_(device), stream_(caller), context_(stream_.get(), launches_overlap(device)) {
        check_cuda(cudaDeviceGetAttribute(&most_pitch_, cudaDevAttrMaxPitch, device), kName, "cudaDeviceGetAttribute");
    }
    ~Gpu() override { cudaStreamSynchronize(stream_.get()); }  // of a rollout that ended early: it reads constants

    const ProgramKernels& kernels() const override { return program_kernels(); }

    std::int64_t available() override {
        const DeviceScope scope(kName, device_);
        std::size_t available = 0, total = 0;
        check_cuda(cudaMemGetInfo(&available, &total), kName, "cudaMemGetInfo");
        return static_cast<std::int64_t>(available);
    }

    // What a tile gives back waits here for the next one, which asks for the same: after the first, none is allocated.
    PlaceBytes allocate(std::int64_t bytes) override {
        const DeviceScope scope(kName, device_);
        const std::int64_t size = bytes > 0 ? bytes : 1;
        std::vector<DeviceBytes>& kept = kept_[size];
        DeviceBytes memory;
        if (kept.empty()) {
            memory = obtain(size);
        } else {
            memory = std::move(kept.back());
            kept.pop_back();
        }
        return PlaceBytes(static_cast<char*>(memory.release()),
                          [this, size](char* returned) { kept_[size].emplace_back(returned); });
    }

    void write(char* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch, std::int64_t width,
               std::int64_t rows) override {
        // Pageable memory is taken along at once.
        if (rows > 1 && (to_pitch != width || from_pitch != width)) {
            return copy(to, to_pitch, from, from_pitch, width, rows);
        }
        const DeviceScope scope(kName, device_);
        copy_by_pages(to, from, width * rows, stream_.get());
    }

    void read(void* to, std::int64_t to_pitch, const char* from, std::int64_t from_pitch, std::int64_t width,
              std::int64_t rows) override {
        copy(to, to_pitch, from, from_pitch, width, rows);
        wait();
    }

    void within(const std::function<void()>& work) override {
        const DeviceScope device(kName, device_);
        const ContextScope scope(context_);
        work();
    }

    std::int64_t layer_scratch(const LayerTask& task) override { return found_ ? dense_scratch(task) : 0; }
    void layer(const LayerTask& task) override {
        if (found_ && multiply_by_library(dense_products(task), task.scratch)) return;
        multiply_layer(task, properties_of(device_));
    }
    std::int64_t packed_layer_scratch(const PackedLayerTask& task) override {
        return cuda::packed_layer_scratch(task, properties_of(device_));
    }
    void packed_layer(const PackedLayerTask& task) override { multiply_packed_layer(task, properties_of(device_)); }
    void prepack(const PackedView& weight, void* panels) override {
        const DeviceScope scope(kName, device_);
        prepack_weight(weight, static_cast<unsigned char*>(panels), stream_.get());
        wait();
    }
    void move(const MoveTask& task) override { move_operand(task); }
    void collect(const CollectTask& task) override { collect_output(task); }
    void advance(std::int64_t* clock) override { advance_clock(clock); }
    void add_noise(const NoiseTask& task) override {
        within([&] { cuda::add_noise(task); });
    }

    std::unique_ptr<Feed> feed(int numbers) override {
        const DeviceScope scope(kName, device_);
        return std::make_unique<CopyStream>(device_, stream_.get(), numbers);
    }
    std::int64_t stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size) override {
        return cuda::stretch_scratch(samples, directions, size);
    }
    void stretch(const StretchTask& task) override { stretch_frames(task); }

    std::unique_ptr<Replay> record(const std::function<void()>& work) override {
        check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), kName,
                   "cudaStreamBeginCapture");
        cudaGraph_t graph = nullptr;
        try {
            work();
        } catch (...) {
            cudaStreamEndCapture(stream_.get(), &graph);
            if (graph) cudaGraphDestroy(graph);
            throw;
        }
        check_cuda(cudaStreamEndCapture(stream_.get(), &graph), kName, "cudaStreamEndCapture");
        return std::make_unique<Graph>(graph, stream_.get());
    }

    // One event for some steps, which are then at most twice as many ahead: the device idles at none of them.
    void pace() override {
        constexpr std::int64_t kSteps = 4;
        if (paced_++ % kSteps != 0) return;
        passed_.wait();
        passed_.record(stream_.get());
    }

  private:
    // Made at the first step, which is not recorded: it allocates.
    bool multiply_by_library(const std::vector<DenseProduct>& products, void* workspace) {
        if (products.empty()) return false;
        if (!library_) library_ = std::make_unique<CublasLt>(*found_);
        if (!library_->knows(products)) return false;
        for (const DenseProduct& product : products) library_->multiply(product, workspace, stream_.get());
        return true;
    }

    DeviceBytes obtain(std::int64_t bytes) {
        try {
            return allocate_device(bytes);
        } catch (const Error&) {
            wait();
            kept_.clear();
        }
        return allocate_device(bytes);
    }

    void copy(void* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch, std::int64_t width,
              std::int64_t rows) {
        if (width == 0 || rows == 0) return;
        const DeviceScope scope(kName, device_);
        const auto bytes = static_cast<std::size_t>(width);
        if (rows == 1 || (to_pitch == width && from_pitch == width)) {
            check_cuda(
                cudaMemcpyAsync(to, from, bytes * static_cast<std::size_t>(rows), cudaMemcpyDefault, stream_.get()),
                kName, "cudaMemcpyAsync");
            return;
        }
        if (std::max(to_pitch, from_pitch) > most_pitch_) {
            for (std::int64_t row = 0; row < rows; ++row) {
                copy(static_cast<char*>(to) + row * to_pitch, 0, static_cast<const char*>(from) + row * from_pitch, 0,
                     width, 1);
            }
            return;
        }
        check_cuda(cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_pitch), from, static_cast<std::size_t>(from_pitch),
                                     bytes, static_cast<std::size_t>(rows), cudaMemcpyDefault, stream_.get()),
                   kName, "cudaMemcpy2DAsync");
    }

    void wait() { check_cuda(cudaStreamSynchronize(stream_.get()), kName, "cudaStreamSynchronize"); }

    int device_, most_pitch_ = 0;
    std::map<std::int64_t, std::vector<DeviceBytes>> kept_;
    Stream stream_;
    Context context_;
    Event passed_;
    std::int64_t paced_ = 0;
    const lt::Library* found_ = cublas_lt();  // once: scratch is for it
    std::unique_ptr<CublasLt> library_;
};

}  // namespace

std::unique_ptr<tqs::Device> open(int device, std::uintptr_t stream) {
    const DeviceScope scope(kName, device);
    return std::make_unique<Gpu>(device, reinterpret_cast<cudaStream_t>(stream));
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
    const DeviceScope scope(kName, device);
    void* const begin = static_cast<char*>(const_cast<void*>(memory)) + pages.first;
    const cudaError_t status = cudaHostRegister(begin, static_cast<std::size_t>(pages.bytes), cudaHostRegisterPortable);
    if (status == cudaErrorHostMemoryAlreadyRegistered) {
        cudaGetLastError();
        return nullptr;
    }
    require(status == cudaSuccess, kName, "cannot page-lock ", pages.bytes, " bytes of weights (",
            cudaGetErrorString(status),
            "); copy weights that are mapped from a file (`parameter.data = parameter.data.clone()`), or move the "
            "module to the device");
    std::shared_ptr<const void> held(begin, [](void* locked) { cudaHostUnregister(locked); });
    own = held;
    return held;
}

const ProgramKernels& program_kernels() {
    static constexpr ProgramKernels kernels{product_kernels, attention_kernels, elementwise_kernels, row_kernels,
                                            movement_kernels};
    return kernels;
}

}  // namespace tqs::cuda
