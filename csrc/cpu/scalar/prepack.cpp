#include <cstring>

#include "cpu/scalar/kernels.h"

namespace tqs::scalar {
namespace {

void prepack(const PackedView& weight, std::uint8_t* out) {
    std::memcpy(out, weight.codes, static_cast<std::size_t>(prepacked_bytes(weight)));
}

}  // namespace

std::int64_t prepacked_bytes(const PackedView& weight) {
    return weight.rows * row_bytes(weight);
}

constinit const PrepackKernel kPrepack[kFormats] = {prepack, prepack, prepack, prepack};

}  // namespace tqs::scalar
