// The GPU as a place of programs (backend/device.h): a stream of its own, memory that is kept for the next tile,
// graphs.
#include "backend/device.h"

#include <algorithm>
#include <map>
#include <vector>

#include "cuda/check.h"
#include "cuda/device_properties.h"
#include "cuda/kernels.h"
#include "cuda/program/context.h"
#include "cuda/program/cublas_lt.h"
#include "cuda/program/host_memory.h"
#include "cuda/program/kernels.h"
#include "cuda/program/layer.h"
#include "cuda/program/packed_layer.h"
#include "cuda/program/steps.h"
#include "cuda/program/streams.h"
#include "cuda/program/stretching.h"
#include "cuda/program/variants.h"

namespace tqs::cuda {
namespace {

// A graph of what one step enqueues: launching it costs the processor one call, whatever number of kernels it holds.
class Graph : public Replay {
  public:
    Graph(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
        const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
        cudaGraphDestroy(graph);
        check_cuda(status, kEngine, "cudaGraphInstantiate");
    }
    ~Graph() override { cudaGraphExecDestroy(executable_); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void run() override { check_cuda(cudaGraphLaunch(executable_, stream_), kEngine, "cudaGraphLaunch"); }

  private:
    cudaStream_t stream_;
    cudaGraphExec_t executable_ = nullptr;
};

class Gpu : public tqs::Device {
  public:
    Gpu(int device, cudaStream_t caller)
        : device_(device), stream_(caller), context_(stream_.get(), launches_overlap(device)) {
        check_cuda(cudaDeviceGetAttribute(&most_pitch_, cudaDevAttrMaxPitch, device), kEngine,
                   "cudaDeviceGetAttribute");
    }
    ~Gpu() override { cudaStreamSynchronize(stream_.get()); }  // of a rollout that ended early: it reads constants

    const ProgramKernels& kernels() const override { return program_kernels(); }

    std::int64_t available() override {
        const DeviceScope scope(kEngine, device_);
        std::size_t available = 0, total = 0;
        check_cuda(cudaMemGetInfo(&available, &total), kEngine, "cudaMemGetInfo");
        return static_cast<std::int64_t>(available);
    }

    // What a tile gives back waits here for the next one, which asks for the same: after the first, none is allocated.
    PlaceBytes allocate(std::int64_t bytes) override {
        const DeviceScope scope(kEngine, device_);
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
        const DeviceScope scope(kEngine, device_);
        copy_to_device(to, from, width * rows, stream_.get());
    }

    void read(void* to, std::int64_t to_pitch, const char* from, std::int64_t from_pitch, std::int64_t width,
              std::int64_t rows) override {
        copy(to, to_pitch, from, from_pitch, width, rows);
        wait();
    }

    void within(const std::function<void()>& work) override {
        const DeviceScope device(kEngine, device_);
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
        const DeviceScope scope(kEngine, device_);
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
        const DeviceScope scope(kEngine, device_);
        return open_feed(device_, stream_.get(), numbers);
    }
    std::int64_t stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size) override {
        return cuda::stretch_scratch(samples, directions, size);
    }
    void stretch(const StretchTask& task) override { stretch_frames(task); }

    std::unique_ptr<Replay> record(const std::function<void()>& work) override {
        check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), kEngine,
                   "cudaStreamBeginCapture");
        cudaGraph_t graph = nullptr;
        try {
            work();
        } catch (...) {
            cudaStreamEndCapture(stream_.get(), &graph);
            if (graph) cudaGraphDestroy(graph);
            throw;
        }
        check_cuda(cudaStreamEndCapture(stream_.get(), &graph), kEngine, "cudaStreamEndCapture");
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
        const DeviceScope scope(kEngine, device_);
        const auto bytes = static_cast<std::size_t>(width);
        if (rows == 1 || (to_pitch == width && from_pitch == width)) {
            check_cuda(
                cudaMemcpyAsync(to, from, bytes * static_cast<std::size_t>(rows), cudaMemcpyDefault, stream_.get()),
                kEngine, "cudaMemcpyAsync");
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
                   kEngine, "cudaMemcpy2DAsync");
    }

    void wait() { check_cuda(cudaStreamSynchronize(stream_.get()), kEngine, "cudaStreamSynchronize"); }

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
    const DeviceScope scope(kEngine, device);
    return std::make_unique<Gpu>(device, reinterpret_cast<cudaStream_t>(stream));
}

const ProgramKernels& program_kernels() {
    static constexpr ProgramKernels kernels{product_kernels, attention_kernels, elementwise_kernels, row_kernels,
                                            movement_kernels};
    return kernels;
}

}  // namespace tqs::cuda
