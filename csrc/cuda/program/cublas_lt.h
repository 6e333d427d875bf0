// Large products of layers through cuBLASLt.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "backend/device.h"
#include "cuda/program/cublas_lt_api.h"

namespace tqs::cuda {

// out [rows, outputs] = x [rows, k] weight [outputs, k]^T + bias [outputs] (or null); all 16-byte aligned, rows of x
// `x_stride` elements apart.
struct DenseProduct {
    Precision precision;
    bool tf32;
    std::int64_t rows, outputs, k, x_stride;
    const void *x, *weight, *bias;
    void* out;
};

// The products that a layer is for a library that knows nothing of lanes: one per run of lanes with the same weight and
// bias. Empty where it is none of those, or where they are not worth a launch each.
std::vector<DenseProduct> dense_products(const LayerTask& task);

// The same whatever their size.
std::vector<DenseProduct> all_dense_products(const LayerTask& task);

constexpr std::int64_t kDenseWorkspace = std::int64_t{32} << 20;  // what NVIDIA recommends for Hopper

// kDenseWorkspace where `dense_products` may have some, as far as sizes tell.
std::int64_t dense_scratch(const LayerTask& task);

// Null where the library was not found, or is not to be used (TQS_CUBLASLT=0).
const lt::Library* cublas_lt();

// One per stream. The algorithm for a shape is asked for once and stays: the same bits from run to run.
class CublasLt {
  public:
    explicit CublasLt(const lt::Library& library);
    ~CublasLt();
    CublasLt(const CublasLt&) = delete;
    CublasLt& operator=(const CublasLt&) = delete;

    // Whether the library has algorithms for all of them.
    bool knows(const std::vector<DenseProduct>& products);
    // `workspace`: kDenseWorkspace bytes on the device.
    void multiply(const DenseProduct& product, void* workspace, cudaStream_t stream);

  private:
    struct Plan;
    const Plan& plan_of(const DenseProduct& product);

    const lt::Api& api_;
    lt::Handle handle_ = nullptr;
    // Precision, tf32, rows, outputs, k, x_stride, whether there is a bias.
    using Key = std::tuple<Precision, bool, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool>;
    std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace tqs::cuda
