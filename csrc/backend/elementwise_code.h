// The code of elementwise chains: what capture writes, csrc/program/chain.h differentiates and kernels interpret.
#pragma once

#include <cstdint>

namespace tqs {

// One chain of elementwise operations, in registers that hold a block of elements each. clang-format off
enum class Opcode : std::int16_t {
    constant,  // value
    // one argument
    negate,
    absolute,
    sign,
    floor,
    ceil,
    round,
    trunc,
    square_root,
    reciprocal_square_root,
    reciprocal,
    exp,
    expm1,
    log,
    log1p,
    sin,
    cos,
    tan,
    atan,
    sinh,
    cosh,
    tanh,
    sigmoid,
    error_function,
    gelu,
    gelu_tanh,
    silu,
    softplus,
    relu,
    logical_not,
    is_nan,
    is_finite,
    // two arguments
    add,
    subtract,
    multiply,
    divide,
    power,
    maximum,
    minimum,
    remainder,
    floor_divide,
    atan2,
    equal,
    not_equal,
    less,
    less_equal,
    greater,
    greater_equal,
    logical_and,
    logical_or,
    logical_xor,
    // three arguments: a ? b : c
    where,
};  // clang-format on
inline constexpr int kOpcodes = static_cast<int>(Opcode::where) + 1;

static constexpr int arity(Opcode op) {
    if (op == Opcode::constant) return 0;
    return op < Opcode::add ? 1 : op < Opcode::where ? 2 : 3;
}

// Register `out` = op(a, b, c). Registers 0 ... inputs - 1 are the inputs and are not written. What a `constant` writes
// nothing else does; other registers are reused, but never as an argument of the instruction that writes them. Booleans
// are 0 and 1. `remainder` has the sign of the divisor, `round` goes to even, as in torch.
struct Instruction {
    Opcode op;
    std::int16_t out, a, b, c;
    double value;
};

inline constexpr int kMaxElementwiseInputs = 16;
inline constexpr int kMaxElementwiseOutputs = 4;
inline constexpr int kMaxRegisters = 1024;
inline constexpr int kMaxInstructions = 16384;

// d output / d input that is the same everywhere, in place of a register.
inline constexpr std::int16_t kZeroCoefficient = -1;
inline constexpr std::int16_t kUnitCoefficient = -2;

}  // namespace tqs
