#include "program/registry.h"

namespace tqs::ops {

std::unique_ptr<Op> make_reduce(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

std::unique_ptr<Op> make_softmax(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

std::unique_ptr<Op> make_normalize(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

std::unique_ptr<Op> make_scan(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

std::unique_ptr<Op> make_top_k(const OpContext& context) {
    context.require(false, "not built yet");
    return nullptr;
}

}  // namespace tqs::ops
