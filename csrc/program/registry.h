// The op registry: one line per op, one function per family file in ops/.
#pragma once

#include <memory>

#include "program/op.h"

namespace tqs::ops {

std::unique_ptr<Op> make_elementwise(const OpContext& context);    // elementwise.cpp
std::unique_ptr<Op> make_linear(const OpContext& context);         // linear.cpp
std::unique_ptr<Op> make_packed_linear(const OpContext& context);  // packed_linear.cpp
std::unique_ptr<Op> make_convolution(const OpContext& context);    // convolution.cpp
std::unique_ptr<Op> make_matmul(const OpContext& context);         // matmul.cpp
std::unique_ptr<Op> make_attention(const OpContext& context);      // attention.cpp
std::unique_ptr<Op> make_reduce(const OpContext& context);         // rows.cpp
std::unique_ptr<Op> make_softmax(const OpContext& context);
std::unique_ptr<Op> make_normalize(const OpContext& context);
std::unique_ptr<Op> make_scan(const OpContext& context);
std::unique_ptr<Op> make_running_extreme(const OpContext& context);
std::unique_ptr<Op> make_top_k(const OpContext& context);
std::unique_ptr<Op> make_copy(const OpContext& context);  // movement.cpp
std::unique_ptr<Op> make_remap(const OpContext& context);
std::unique_ptr<Op> make_gather(const OpContext& context);

}  // namespace tqs::ops
