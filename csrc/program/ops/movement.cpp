#include "program/registry.h"

namespace tqs::ops {

std::unique_ptr<Op> make_copy(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

std::unique_ptr<Op> make_remap(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

std::unique_ptr<Op> make_gather(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

}  // namespace tqs::ops
