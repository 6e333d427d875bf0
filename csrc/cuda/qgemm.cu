// Everything around the large kernels: the simple product, and what prepares weights and rows.
#include "cuda/device/dispatch_simple.cuh"
#include "cuda/launch.cuh"

namespace tqs::cuda {

void multiply_simple(const QgemmTask& task, DType dtype, const Device& device, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the simple kernel"};
    if (dtype == DType::float32) {
        run_simple<float>(task, device.multiprocessors, launch);
    } else if (dtype == DType::bfloat16) {
        run_simple<Bfloat16>(task, device.multiprocessors, launch);
    } else {
        run_simple<Float16>(task, device.multiprocessors, launch);
    }
}

void multiply_prepacked(const QgemmTask& task, const Plan& plan, DType dtype, bool int8, unsigned char* workspace,
                        cudaStream_t stream) {
    const bool arranged = plan.kernel == Kernel::warpgroups, bfloat16 = dtype == DType::bfloat16;
    const Product p = product_arguments(task, plan, dtype, int8, workspace);
    if (int8) {
        quantize_activations(task, dtype, arranged, workspace + plan.activations, stream);
        (arranged ? warpgroups_int8 : multiply_int8)(p, plan, stream);
    } else if (arranged) {
        run_arrange_rows(task, workspace + plan.activations,
                         StreamLaunch{stream, "the launch of the kernel that arranges rows"});
        (bfloat16 ? warpgroups_bfloat16 : warpgroups_float16)(p, plan, stream);
    } else {
        (bfloat16 ? multiply_bfloat16 : multiply_float16)(p, plan, stream);
    }
}

void prepack_weight(const PackedView& weight, unsigned char* out, cudaStream_t stream) {
    run_prepack(weight, out, StreamLaunch{stream, "the launch of the prepacking kernel"});
}

void dequantize_weight(const PackedView& weight, float* out, cudaStream_t stream) {
    run_dequantize(weight, out, StreamLaunch{stream, "the launch of the dequantizer"});
}

void quantize_activations(const QgemmTask& task, DType dtype, bool arranged, unsigned char* out, cudaStream_t stream) {
    const StreamLaunch launch{stream, "the launch of the row quantizer"};
    if (dtype == DType::float32) {
        run_quantize_rows<float>(task, arranged, out, launch);
    } else if (dtype == DType::bfloat16) {
        run_quantize_rows<Bfloat16>(task, arranged, out, launch);
    } else {
        run_quantize_rows<Float16>(task, arranged, out, launch);
    }
}

}  // namespace tqs::cuda
