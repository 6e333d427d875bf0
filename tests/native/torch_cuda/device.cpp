// A CUDA device for a PyTorch without CUDA: its memory is the host's, and every operator on it is that of the
// processor. With a build of TQS_CUDA=EMULATED, whose kernels read host memory, all of the package runs on tensors that
// are on CUDA for Python: is_cuda, dispatch to operators registered for CUDA, autograd, functorch, torch.export. An
// operator that is given tensors of both devices fails, as on a GPU; and as there, recurrent cells are fused operators
// of CUDA alone.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_map>

namespace {

using Stack = torch::jit::Stack;

const c10::Device kGpu(c10::DeviceType::CUDA, 0);
const c10::Stream kStream(c10::Stream::DEFAULT, kGpu);

// What is enqueued is done at once: streams and events have nothing to wait for.
struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
    c10::Device exchangeDevice(c10::Device) const override { return kGpu; }
    c10::Device getDevice() const override { return kGpu; }
    c10::Stream getStream(c10::Device) const noexcept override { return kStream; }
    c10::Stream getNewStream(c10::Device, int) const override { return kStream; }
    c10::Stream exchangeStream(c10::Stream) const noexcept override { return kStream; }
    void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// By this name torch looks for them.
struct CUDAHooks : at::CUDAHooksInterface {
    explicit CUDAHooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool hasCUDA() const override { return true; }
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex current_device() const override { return 0; }
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    int getNumGPUs() const override { return 1; }
    void deviceSynchronize(c10::DeviceIndex) const override {}
};

// The bytes of a storage, said to lie on another device; they live as long as either.
c10::Storage seen_on(const c10::Storage& storage, c10::Device device) {
    auto* kept = new c10::Storage(storage);
    void* bytes = const_cast<void*>(storage.data_ptr().get());
    c10::DataPtr owned(bytes, kept, [](void* context) { delete static_cast<c10::Storage*>(context); }, device);
    return {c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(owned), c10::GetAllocator(at::kCPU), true};
}

at::Tensor view_of(const at::Tensor& tensor, c10::Storage storage, c10::DispatchKey device) {
    using Key = c10::DispatchKey;
    const c10::DispatchKeySet marks({Key::ZeroTensor, Key::Negative, Key::Conjugate});
    const auto keys = c10::DispatchKeySet(device) | (tensor.key_set() & marks);
    auto result = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, tensor.dtype());
    result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    return result;
}

// The tensors of one call: arguments to the processor, results back to where they were or to the GPU.
class Call {
  public:
    at::Tensor to_host(const at::Tensor& tensor) {
        if (!tensor.defined()) return tensor;
        if (!tensor.is_cuda()) {
            host_ |= tensor.dim() > 0;
            return tensor;
        }
        gpu_ = true;
        auto& host = hosts_[tensor.storage().unsafeGetStorageImpl()];
        if (!host) {
            host = seen_on(tensor.storage(), at::kCPU);
            gpus_[host.unsafeGetStorageImpl()] = tensor.storage();
        }
        at::Tensor result = view_of(tensor, host, c10::DispatchKey::CPU);
        originals_[result.unsafeGetTensorImpl()] = tensor;
        held_.push_back(result);
        return result;
    }

    at::Tensor to_gpu(const at::Tensor& tensor) {
        if (!tensor.defined() || tensor.is_cuda()) return tensor;
        if (auto found = originals_.find(tensor.unsafeGetTensorImpl()); found != originals_.end()) {
            auto* original = found->second.unsafeGetTensorImpl();
            if (tensor.storage().data() != original->storage().data()) {  // it was resized
                original->set_storage_keep_dtype(seen_on(tensor.storage(), kGpu));
            }
            original->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
            return found->second;
        }
        auto& gpu = gpus_[tensor.storage().unsafeGetStorageImpl()];
        if (!gpu) gpu = seen_on(tensor.storage(), kGpu);
        return view_of(tensor, gpu, c10::DispatchKey::CUDA);
    }

    bool on_gpu() const { return gpu_; }
    bool on_both() const { return gpu_ && host_; }

  private:
    bool gpu_ = false, host_ = false;
    std::unordered_map<c10::StorageImpl*, c10::Storage> hosts_, gpus_;
    std::unordered_map<c10::TensorImpl*, at::Tensor> originals_;
    std::vector<at::Tensor> held_;
};

// Those that take tensors of both devices.
constexpr std::array<std::string_view, 5> kMixing{
    {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}};

template <typename F>
c10::IValue each_tensor(const c10::IValue& value, F&& f) {
    if (value.isTensor()) return f(value.toTensor());
    if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor& one : value.toTensorVector()) list.push_back(f(one));
        return list;
    }
    if (value.isOptionalTensorList()) {
        c10::List<std::optional<at::Tensor>> list;
        for (const auto& one : value.toOptionalTensorVector()) list.push_back(one ? std::optional(f(*one)) : one);
        return list;
    }
    return value;
}

void on_the_processor(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    const auto& schema = op.schema();
    Call call;
    std::optional<c10::Device> asked;
    for (size_t i = stack->size() - schema.arguments().size(); i < stack->size(); ++i) {
        c10::IValue& value = (*stack)[i];
        if (value.isDevice()) {
            asked = value.toDevice();
            if (asked->is_cuda()) value = c10::Device(at::kCPU);
        } else {
            value = each_tensor(value, [&](const at::Tensor& tensor) { return call.to_host(tensor); });
        }
    }
    const bool mixing = std::find(kMixing.begin(), kMixing.end(), schema.name()) != kMixing.end();
    TORCH_CHECK(mixing || !call.on_both(), "Expected all tensors to be on the same device: ", schema);
    op.callBoxed(stack);
    const bool gpu = asked ? asked->is_cuda() : call.on_gpu();
    const size_t first = stack->size() - schema.returns().size();
    for (size_t i = first; i < stack->size(); ++i) {
        if (!gpu && schema.returns()[i - first].alias_info() == nullptr) continue;
        (*stack)[i] = each_tensor((*stack)[i], [&](const at::Tensor& tensor) { return call.to_gpu(tensor); });
    }
}

using Bias = std::optional<at::Tensor>;

at::Tensor biased(const at::Tensor& x, const Bias& bias) {
    return bias ? x + *bias : x;
}

std::tuple<at::Tensor, at::Tensor> fused_gru_cell(const at::Tensor& x, const at::Tensor& h, const at::Tensor& hidden,
                                                  const Bias& x_bias, const Bias& h_bias) {
    const auto xs = biased(x, x_bias).chunk(3, -1), hs = biased(h, h_bias).chunk(3, -1);
    const at::Tensor reset = (xs[0] + hs[0]).sigmoid(), update = (xs[1] + hs[1]).sigmoid();
    const at::Tensor fresh = (xs[2] + reset * hs[2]).tanh();
    return {fresh + update * (hidden - fresh), at::cat({reset, update, fresh, hidden, hs[2]}, -1)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fused_lstm_cell(const at::Tensor& x, const at::Tensor& h,
                                                               const at::Tensor& cell, const Bias& x_bias,
                                                               const Bias& h_bias) {
    const auto gates = biased(biased(x + h, x_bias), h_bias).chunk(4, -1);
    const at::Tensor in = gates[0].sigmoid(), forget = gates[1].sigmoid();
    const at::Tensor fresh = gates[2].tanh(), out = gates[3].sigmoid();
    const at::Tensor next = forget * cell + in * fresh;
    return {out * next.tanh(), next, at::cat({in, forget, fresh, out}, -1)};
}

// Attention written out: the choice of a kernel looks at a real device.
std::int64_t no_fused_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const Bias&, double, bool,
                                std::optional<double>, bool) {
    return 0;
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
    m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_processor>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
    // These have a kernel for all devices, which would ask for a part of CUDA.
    for (const char* name : {"copy_", "_local_scalar_dense", "equal", "is_set_to", "resize_"}) {
        m.impl(name, torch::CppFunction::makeFromBoxedFunction<&on_the_processor>());
    }
    m.impl("_fused_sdp_choice", &no_fused_attention);
    m.impl("_thnn_fused_gru_cell", &fused_gru_cell);
    m.impl("_thnn_fused_lstm_cell", &fused_lstm_cell);
}

}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at
