// The interpreter of elementwise chains: one instruction at a time over a block of elements that lies in the
// first-level cache, so that the cost of choosing the operation is spread over a few hundred elements.
//
// A register is `data`, a `mask` and a step `row`: element i of row r is at data[r * row + (i & mask)]. Mask 0 is a
// register whose elements are all equal, of which one vector is stored; what is computed of such registers only is such
// a register again.
#pragma once

#include <limits>

#include "backend/program_kernels.h"
#include "cpu/panel/functions.h"

namespace tqs::panel {

template <class T>
struct Registers {
    T* data[kMaxRegisters];
    std::int64_t mask[kMaxRegisters];
    std::int64_t row[kMaxRegisters];  // of an instruction's result: as the caller has set it
};

// What an instruction covers: `rows` rows of `count` elements.
struct Block {
    std::int64_t rows, count;
};

// Calls body(i) for vectors that cover [0, count), count >= kLanes. The last may overlap the one before it, whose
// results it repeats: no element is treated differently for lying near the end.
template <class W, class Body>
static inline void for_vectors(std::int64_t count, const Body& body) {
    for (std::int64_t i = 0; i < count; i += W::kLanes) body(std::min(i, count - W::kLanes));
}

template <class W, class F>
[[gnu::noinline]] static void unary(const Instruction& code, Registers<typename W::Element>& registers, Block block,
                                    const F& f) {
    using T = typename W::Element;
    const T* a = registers.data[code.a];
    T* out = registers.data[code.out];
    registers.mask[code.out] = registers.mask[code.a];
    if (registers.mask[code.out] == 0) {
        block = {1, W::kLanes};
        registers.row[code.out] = 0;
    }
    const std::int64_t a_row = registers.row[code.a], out_row = registers.row[code.out];
    for (std::int64_t r = 0; r < block.rows; ++r, a += a_row, out += out_row) {
        for_vectors<W>(block.count, [&](std::int64_t i) { W::store(out + i, f(W::load(a + i))); });
    }
}

template <class W, class F>
[[gnu::noinline]] static void binary(const Instruction& code, Registers<typename W::Element>& registers, Block block,
                                     const F& f) {
    using T = typename W::Element;
    const T *a = registers.data[code.a], *b = registers.data[code.b];
    const std::int64_t a_mask = registers.mask[code.a], b_mask = registers.mask[code.b];
    T* out = registers.data[code.out];
    registers.mask[code.out] = a_mask | b_mask;
    if (registers.mask[code.out] == 0) {
        block = {1, W::kLanes};
        registers.row[code.out] = 0;
    }
    const std::int64_t a_row = registers.row[code.a], b_row = registers.row[code.b], out_row = registers.row[code.out];
    for (std::int64_t r = 0; r < block.rows; ++r, a += a_row, b += b_row, out += out_row) {
        for_vectors<W>(block.count, [&](std::int64_t i) {
            W::store(out + i, f(W::load(a + (i & a_mask)), W::load(b + (i & b_mask))));
        });
    }
}

template <class W, class F>
[[gnu::noinline]] static void ternary(const Instruction& code, Registers<typename W::Element>& registers, Block block,
                                      const F& f) {
    using T = typename W::Element;
    const T *a = registers.data[code.a], *b = registers.data[code.b], *c = registers.data[code.c];
    const std::int64_t a_mask = registers.mask[code.a], b_mask = registers.mask[code.b],
                       c_mask = registers.mask[code.c];
    T* out = registers.data[code.out];
    registers.mask[code.out] = a_mask | b_mask | c_mask;
    if (registers.mask[code.out] == 0) {
        block = {1, W::kLanes};
        registers.row[code.out] = 0;
    }
    const std::int64_t a_row = registers.row[code.a], b_row = registers.row[code.b], c_row = registers.row[code.c],
                       out_row = registers.row[code.out];
    for (std::int64_t r = 0; r < block.rows; ++r, a += a_row, b += b_row, c += c_row, out += out_row) {
        for_vectors<W>(block.count, [&](std::int64_t i) {
            W::store(out + i, f(W::load(a + (i & a_mask)), W::load(b + (i & b_mask)), W::load(c + (i & c_mask))));
        });
    }
}

// The elements of `block` are valid in every register that `code` reads, at least kLanes of each row stored.
template <class W>
static void execute(const Instruction& code, Registers<typename W::Element>& registers, Block block) {
    using T = typename W::Element;
    using V = typename W::Vector;
    using F = Functions<W>;
    const auto one = [&](auto f) {
        unary<W>(code, registers, block, f);
    };
    const auto two = [&](auto f) {
        binary<W>(code, registers, block, f);
    };
    // Comparisons give 1 and 0; what they compare, as a mask, depends on the ISA.
    const auto truth = [](auto holds) {
        return holds ? W::broadcast(T(1)) : W::broadcast(T(0));
    };
    switch (code.op) {
        case Opcode::constant:
            W::store(registers.data[code.out], W::broadcast(static_cast<T>(code.value)));
            registers.mask[code.out] = 0;
            registers.row[code.out] = 0;
            return;
        case Opcode::negate:
            return one([](V a) { return -a; });
        case Opcode::absolute:
            return one([](V a) { return F::absolute(a); });
        case Opcode::sign:
            return one([truth](V a) { return truth(a > T(0)) - truth(a < T(0)); });
        case Opcode::floor:
            return one([](V a) { return W::floor(a); });
        case Opcode::ceil:
            return one([](V a) { return W::ceil(a); });
        case Opcode::round:
            return one([](V a) { return W::round(a); });
        case Opcode::trunc:
            return one([](V a) { return W::trunc(a); });
        case Opcode::square_root:
            return one([](V a) { return W::square_root(a); });
        case Opcode::reciprocal_square_root:
            return one([](V a) { return T(1) / W::square_root(a); });
        case Opcode::reciprocal:
            return one([](V a) { return T(1) / a; });
        case Opcode::exp:
            return one([](V a) { return F::exp(a); });
        case Opcode::expm1:
            return one([](V a) { return F::expm1(a); });
        case Opcode::log:
            return one([](V a) { return F::log(a); });
        case Opcode::log1p:
            return one([](V a) { return F::log1p(a); });
        case Opcode::sin:
            return one([](V a) { return F::sin(a); });
        case Opcode::cos:
            return one([](V a) { return F::cos(a); });
        case Opcode::tan:
            return one([](V a) { return F::tan(a); });
        case Opcode::atan:
            return one([](V a) { return F::atan(a); });
        case Opcode::sinh:
            return one([](V a) { return F::sinh(a); });
        case Opcode::cosh:
            return one([](V a) { return F::cosh(a); });
        case Opcode::tanh:
            return one([](V a) { return F::tanh(a); });
        case Opcode::sigmoid:
            return one([](V a) { return F::sigmoid(a); });
        case Opcode::error_function:
            return one([](V a) { return F::error_function(a); });
        case Opcode::gelu:
            return one([](V a) { return F::gelu(a); });
        case Opcode::gelu_tanh:
            return one([](V a) { return F::gelu_tanh(a); });
        case Opcode::silu:
            return one([](V a) { return F::silu(a); });
        case Opcode::softplus:
            return one([](V a) { return F::softplus(a); });
        case Opcode::relu:
            return one([](V a) { return a < T(0) ? W::broadcast(T(0)) : a; });
        case Opcode::logical_not:
            return one([truth](V a) { return truth(a == T(0)); });
        case Opcode::is_nan:
            return one([truth](V a) { return truth(a != a); });
        case Opcode::is_finite:
            return one([truth](V a) { return truth(a - a == T(0)); });
        case Opcode::add:
            return two([](V a, V b) { return a + b; });
        case Opcode::subtract:
            return two([](V a, V b) { return a - b; });
        case Opcode::multiply:
            return two([](V a, V b) { return a * b; });
        case Opcode::divide:
            return two([](V a, V b) { return a / b; });
        case Opcode::power:
            return two([](V a, V b) { return F::power(a, b); });
        // NaN in either argument is the result.
        case Opcode::maximum:
            return two([](V a, V b) { return (a > b) | (a != a) ? a : b; });
        case Opcode::minimum:
            return two([](V a, V b) { return (a < b) | (a != a) ? a : b; });
        case Opcode::remainder:
            return two([](V a, V b) { return F::remainder(a, b); });
        case Opcode::floor_divide:
            return two([](V a, V b) { return F::floor_divide(a, b); });
        case Opcode::atan2:
            return two([](V a, V b) { return F::atan2(a, b); });
        case Opcode::equal:
            return two([truth](V a, V b) { return truth(a == b); });
        case Opcode::not_equal:
            return two([truth](V a, V b) { return truth(a != b); });
        case Opcode::less:
            return two([truth](V a, V b) { return truth(a < b); });
        case Opcode::less_equal:
            return two([truth](V a, V b) { return truth(a <= b); });
        case Opcode::greater:
            return two([truth](V a, V b) { return truth(a > b); });
        case Opcode::greater_equal:
            return two([truth](V a, V b) { return truth(a >= b); });
        case Opcode::logical_and:
            return two([truth](V a, V b) { return truth((a != T(0)) & (b != T(0))); });
        case Opcode::logical_or:
            return two([truth](V a, V b) { return truth((a != T(0)) | (b != T(0))); });
        case Opcode::logical_xor:
            return two([truth](V a, V b) { return truth((a != T(0)) ^ (b != T(0))); });
        case Opcode::where:
            return ternary<W>(code, registers, block, [](V a, V b, V c) { return a != T(0) ? b : c; });
    }
}

}  // namespace tqs::panel
