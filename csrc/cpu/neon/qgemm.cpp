#include "cpu/panel/qgemm.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/vector.h"
#include "cpu/panel/activations.h"

namespace tqs::neon {

std::int64_t scratch_bytes(const PackedView& weight) {
    return panel::scratch_bytes<Vector>(weight);
}

constinit const ActivationBytes kActivationBytes[tqs::kActivations] = {
    panel::activation_bytes<Activation::exact>,
    nullptr,
    panel::activation_bytes<Activation::int8>,
};

constinit const ActivationKernel kActivations[tqs::kActivations][kDTypes] = {
    {panel::exact_rows<Vector, DType::float32>, panel::exact_rows<Vector, DType::bfloat16>},
    {nullptr, nullptr},
    {panel::quantize_rows<Vector, DType::float32>, panel::quantize_rows<Vector, DType::bfloat16>},
};

namespace {

template <Activation activation, DType dtype, int bits>
constexpr QgemmKernel kernel = panel::qgemm<Vector, activation, dtype, bits>;

}  // namespace

constinit const QgemmKernel kQgemm[tqs::kActivations][kDTypes][kFormats] = {
    {{kernel<Activation::exact, DType::float32, 2>, kernel<Activation::exact, DType::float32, 3>,
      kernel<Activation::exact, DType::float32, 4>, kernel<Activation::exact, DType::float32, 8>},
     {kernel<Activation::exact, DType::bfloat16, 2>, kernel<Activation::exact, DType::bfloat16, 3>,
      kernel<Activation::exact, DType::bfloat16, 4>, kernel<Activation::exact, DType::bfloat16, 8>}},
    {},
    {{kernel<Activation::int8, DType::float32, 2>, kernel<Activation::int8, DType::float32, 3>,
      kernel<Activation::int8, DType::float32, 4>, kernel<Activation::int8, DType::float32, 8>},
     {kernel<Activation::int8, DType::bfloat16, 2>, kernel<Activation::int8, DType::bfloat16, 3>,
      kernel<Activation::int8, DType::bfloat16, 4>, kernel<Activation::int8, DType::bfloat16, 8>}},
};

}  // namespace tqs::neon
