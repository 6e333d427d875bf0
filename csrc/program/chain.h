// An elementwise chain, as a program states it and as kernels run it.
//
// Derivatives are instructions like any other: `differentiate` appends, for every output and input, those that compute
// d output / d input (forward mode, so that `where` drops the branch not taken even where that is not differentiable).
// Equal expressions are computed once. A kernel then needs no derivative rules: it runs the code and multiplies.
//
//     tanh(x + y)     r2 = r0 + r1, r3 = tanh r2                     output r3
//     differentiated  r4 = 1, r5 = r3 r3, r6 = r4 - r5               d r3 / d r0 = d r3 / d r1 = r6
#pragma once

#include <cstdint>
#include <vector>

#include "backend/elementwise_code.h"

namespace tqs {

struct Chain {
    int inputs = 0;
    std::vector<Instruction> code;  // unused arguments are 0
    std::vector<std::int16_t> outputs;
    std::vector<std::int16_t> jacobian;  // [outputs][inputs]; empty if not differentiated
    int registers = 0;
};

// The derivative rules are torch's, also where there is no derivative: relu and |x| have 0 at 0, maximum and minimum
// share it between equal arguments; comparisons, rounding and signs have 0; b |-> 0^b has 0 for b >= 0.
Chain differentiate(const Chain& chain);

// Equal instructions once, powers with simple constant exponents as products, unused instructions dropped.
Chain simplify(const Chain& chain);

// Registers reused once their value is not needed any more (ElementwiseTask says how).
Chain allocate_registers(const Chain& chain);

}  // namespace tqs
