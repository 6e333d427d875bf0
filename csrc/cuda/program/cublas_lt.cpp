#include "cuda/program/cublas_lt.h"

#include <cstdlib>
#include <string_view>

#include "core/check.h"

namespace tqs::cuda {
namespace {

constexpr std::uint32_t kAlignment = 16;

void check(int status, const char* call) {
    require(status == lt::kSuccess, "engine", call, " failed with status ", status,
            "; TQS_CUBLASLT=0 does without cuBLASLt");
}

lt::Type type_of(Precision precision) {
    switch (precision) {
        case Precision::float32:
            return lt::kFloat32;
        case Precision::float64:
            return lt::kFloat64;
        case Precision::bfloat16:
            return lt::kBfloat16;
        case Precision::float16:
            break;
    }
    return lt::kFloat16;
}

lt::Compute compute_of(const DenseProduct& product) {
    switch (product.precision) {
        case Precision::float32:
            return product.tf32 ? lt::kInTf32 : lt::kExactlyIn32;
        case Precision::float64:
            return lt::kIn64;
        case Precision::bfloat16:
        case Precision::float16:
            break;
    }
    return lt::kIn32;
}

}  // namespace

const lt::Library* cublas_lt() {
    const char* const wanted = std::getenv("TQS_CUBLASLT");
    if (wanted && std::string_view(wanted) == "0") return nullptr;
    return lt::find_library();
}

// y, row-major, is y^T column-major: y^T [outputs, rows] = weight^T^T [outputs, k] x^T [k, rows].
struct CublasLt::Plan {
    const lt::Api& api;
    lt::Operation operation = nullptr;
    lt::Layout weight = nullptr, x = nullptr, out = nullptr;
    bool found = false;
    lt::Heuristic best{};

    Plan(const lt::Api& own, lt::Handle handle, const DenseProduct& product) : api(own) {
        const bool wide = product.precision == Precision::float64;
        const lt::Type type = type_of(product.precision);
        const auto rows = static_cast<std::uint64_t>(product.rows), k = static_cast<std::uint64_t>(product.k);
        const auto outputs = static_cast<std::uint64_t>(product.outputs);
        check(api.operation_create(&operation, compute_of(product), wide ? lt::kFloat64 : lt::kFloat32),
              "cublasLtMatmulDescCreate");
        set(lt::kTransposeA, std::int32_t{lt::kTransposed});
        set(lt::kEpilogue, std::uint32_t{product.bias ? lt::kBias : lt::kNothing});
        if (product.bias) set(lt::kBiasPointer, product.bias);
        check(api.layout_create(&weight, type, k, outputs, product.k), "cublasLtMatrixLayoutCreate");
        check(api.layout_create(&x, type, k, rows, product.x_stride), "cublasLtMatrixLayoutCreate");
        check(api.layout_create(&out, type, outputs, rows, product.outputs), "cublasLtMatrixLayoutCreate");
        ask(handle);
    }
    ~Plan() {
        for (const lt::Layout layout : {weight, x, out}) {
            if (layout) api.layout_destroy(layout);
        }
        if (operation) api.operation_destroy(operation);
    }
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;

    template <class Value>
    void set(lt::OperationAttribute attribute, const Value& value) const {
        check(api.operation_set(operation, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
    }

  private:
    void ask(lt::Handle handle) {
        lt::Preference preference = nullptr;
        check(api.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
        const auto prefer = [&](lt::PreferenceAttribute attribute, auto value) {
            return api.preference_set(preference, attribute, &value, sizeof value);
        };
        int status = prefer(lt::kMostWorkspace, static_cast<std::uint64_t>(kDenseWorkspace));
        // Where K is shared out, parts are not rounded to 16 bits.
        if (status == lt::kSuccess) status = prefer(lt::kReductionSchemes, std::uint32_t{lt::kPartsAsComputed});
        for (const auto operand : {lt::kAlignmentA, lt::kAlignmentB, lt::kAlignmentC, lt::kAlignmentD}) {
            if (status == lt::kSuccess) status = prefer(operand, kAlignment);
        }
        int count = 0;
        int answer = lt::kSuccess;
        if (status == lt::kSuccess) {
            answer = api.heuristic(handle, operation, weight, x, out, out, preference, 1, &best, &count);
        }
        api.preference_destroy(preference);
        check(status, "cublasLtMatmulPreferenceSetAttribute");
        if (answer != lt::kNotSupported) check(answer, "cublasLtMatmulAlgoGetHeuristic");
        found = answer == lt::kSuccess && count > 0 && best.status == lt::kSuccess;
    }
};

CublasLt::CublasLt(const lt::Library& library) : api_(library.api) {
    check(api_.create(&handle_), "cublasLtCreate");
}

CublasLt::~CublasLt() {
    plans_.clear();
    api_.destroy(handle_);
}

const CublasLt::Plan& CublasLt::plan_of(const DenseProduct& product) {
    std::unique_ptr<Plan>& plan = plans_[{product.precision, product.tf32, product.rows, product.outputs, product.k,
                                          product.x_stride, product.bias != nullptr}];
    if (!plan) plan = std::make_unique<Plan>(api_, handle_, product);
    return *plan;
}

bool CublasLt::knows(const std::vector<DenseProduct>& products) {
    for (const DenseProduct& product : products) {
        if (!plan_of(product).found) return false;
    }
    return true;
}

void CublasLt::multiply(const DenseProduct& product, void* workspace, cudaStream_t stream) {
    const Plan& plan = plan_of(product);
    if (product.bias) plan.set(lt::kBiasPointer, product.bias);
    constexpr double kWide[2] = {1.0, 0.0};
    constexpr float kNarrow[2] = {1.0f, 0.0f};
    const bool wide = product.precision == Precision::float64;
    const void* const one = wide ? static_cast<const void*>(kWide) : kNarrow;
    const void* const zero = wide ? static_cast<const void*>(kWide + 1) : kNarrow + 1;
    check(api_.matmul(handle_, plan.operation, one, product.weight, plan.weight, product.x, plan.x, zero, product.out,
                      plan.out, product.out, plan.out, &plan.best.algorithm, workspace,
                      static_cast<std::size_t>(kDenseWorkspace), stream),
          "cublasLtMatmul");
}

}  // namespace tqs::cuda
