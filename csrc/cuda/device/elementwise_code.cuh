// One instruction of an elementwise chain on the elements of one thread. Registers lie in memory, a Pack of adjacent
// elements each: which one an instruction names is known only when it runs, and the hardware's registers cannot be
// chosen then. Costly functions go element by element in a loop, so that each is in the kernel once.
#pragma once

#include "cuda/device/functions.cuh"
#include "cuda/device/lanes.cuh"

namespace tqs::cuda {

template <class T, class F>
__device__ inline void apply(Pack<T>& out, const Pack<T>& a, const F& f) {
    const Pack<T> x = a;
    Pack<T> y;
#pragma unroll
    for (int i = 0; i < Pack<T>::kEach; ++i) y.values[i] = f(x.values[i]);
    out = y;
}

template <class T, class F>
__device__ inline void apply(Pack<T>& out, const Pack<T>& a, const Pack<T>& b, const F& f) {
    const Pack<T> x = a, y = b;
    Pack<T> z;
#pragma unroll
    for (int i = 0; i < Pack<T>::kEach; ++i) z.values[i] = f(x.values[i], y.values[i]);
    out = z;
}

template <class T, class F>
__device__ inline void apply_each(Pack<T>& out, const Pack<T>& a, const F& f) {
#pragma unroll 1
    for (int i = 0; i < Pack<T>::kEach; ++i) out.values[i] = f(a.values[i]);
}

template <class T, class F>
__device__ inline void apply_each(Pack<T>& out, const Pack<T>& a, const Pack<T>& b, const F& f) {
#pragma unroll 1
    for (int i = 0; i < Pack<T>::kEach; ++i) out.values[i] = f(a.values[i], b.values[i]);
}

// Register r of this thread is registers[r * stride].
template <class T>
__device__ inline void execute(const Instruction& code, Pack<T>* registers, int stride) {
    Pack<T>& out = registers[code.out * stride];
    const Pack<T>&a = registers[code.a * stride], &b = registers[code.b * stride];
    const auto truth = [](bool holds) {
        return holds ? T(1) : T(0);
    };
    switch (code.op) {
        case Opcode::constant: {
#pragma unroll
            for (int i = 0; i < Pack<T>::kEach; ++i) out.values[i] = static_cast<T>(code.value);
            return;
        }
        case Opcode::negate:
            return apply(out, a, [](T x) { return -x; });
        case Opcode::absolute:
            return apply(out, a, [](T x) { return std::fabs(x); });
        case Opcode::sign:
            return apply(out, a, [&](T x) { return truth(x > T(0)) - truth(x < T(0)); });
        case Opcode::floor:
            return apply(out, a, [](T x) { return std::floor(x); });
        case Opcode::ceil:
            return apply(out, a, [](T x) { return std::ceil(x); });
        case Opcode::round:
            return apply(out, a, [](T x) { return std::rint(x); });
        case Opcode::trunc:
            return apply(out, a, [](T x) { return std::trunc(x); });
        case Opcode::square_root:
            return apply(out, a, [](T x) { return std::sqrt(x); });
        case Opcode::reciprocal_square_root:
            return apply(out, a, [](T x) { return T(1) / std::sqrt(x); });
        case Opcode::reciprocal:
            return apply(out, a, [](T x) { return T(1) / x; });
        case Opcode::exp:
            return apply(out, a, [](T x) { return std::exp(x); });
        case Opcode::expm1:
            return apply_each(out, a, [](T x) { return std::expm1(x); });
        case Opcode::log:
            return apply_each(out, a, [](T x) { return std::log(x); });
        case Opcode::log1p:
            return apply_each(out, a, [](T x) { return std::log1p(x); });
        case Opcode::sin:
            return apply_each(out, a, [](T x) { return std::sin(x); });
        case Opcode::cos:
            return apply_each(out, a, [](T x) { return std::cos(x); });
        case Opcode::tan:
            return apply_each(out, a, [](T x) { return std::tan(x); });
        case Opcode::atan:
            return apply_each(out, a, [](T x) { return std::atan(x); });
        case Opcode::sinh:
            return apply_each(out, a, [](T x) { return std::sinh(x); });
        case Opcode::cosh:
            return apply_each(out, a, [](T x) { return std::cosh(x); });
        case Opcode::tanh:
            return apply(out, a, [](T x) { return std::tanh(x); });
        case Opcode::sigmoid:
            return apply(out, a, [](T x) { return sigmoid(x); });
        case Opcode::error_function:
            return apply_each(out, a, [](T x) { return std::erf(x); });
        case Opcode::gelu:
            return apply_each(out, a, [](T x) { return gelu(x); });
        case Opcode::gelu_tanh:
            return apply(out, a, [](T x) { return gelu_tanh(x); });
        case Opcode::silu:
            return apply(out, a, [](T x) { return x * sigmoid(x); });
        case Opcode::softplus:
            return apply_each(out, a, [](T x) { return softplus(x); });
        case Opcode::relu:
            return apply(out, a, [](T x) { return x < T(0) ? T(0) : x; });
        case Opcode::logical_not:
            return apply(out, a, [&](T x) { return truth(x == T(0)); });
        case Opcode::is_nan:
            return apply(out, a, [&](T x) { return truth(x != x); });
        case Opcode::is_finite:
            return apply(out, a, [&](T x) { return truth(x - x == T(0)); });
        case Opcode::add:
            return apply(out, a, b, [](T x, T y) { return x + y; });
        case Opcode::subtract:
            return apply(out, a, b, [](T x, T y) { return x - y; });
        case Opcode::multiply:
            return apply(out, a, b, [](T x, T y) { return x * y; });
        case Opcode::divide:
            return apply(out, a, b, [](T x, T y) { return x / y; });
        case Opcode::power:
            return apply_each(out, a, b, [](T x, T y) { return std::pow(x, y); });
        // NaN in either argument is the result.
        case Opcode::maximum:
            return apply(out, a, b, [](T x, T y) { return x > y || x != x ? x : y; });
        case Opcode::minimum:
            return apply(out, a, b, [](T x, T y) { return x < y || x != x ? x : y; });
        case Opcode::remainder:
            return apply_each(out, a, b, [](T x, T y) { return remainder_of(x, y); });
        case Opcode::floor_divide:
            return apply_each(out, a, b, [](T x, T y) { return floor_quotient(x, y); });
        case Opcode::atan2:
            return apply_each(out, a, b, [](T x, T y) { return std::atan2(x, y); });
        case Opcode::equal:
            return apply(out, a, b, [&](T x, T y) { return truth(x == y); });
        case Opcode::not_equal:
            return apply(out, a, b, [&](T x, T y) { return truth(x != y); });
        case Opcode::less:
            return apply(out, a, b, [&](T x, T y) { return truth(x < y); });
        case Opcode::less_equal:
            return apply(out, a, b, [&](T x, T y) { return truth(x <= y); });
        case Opcode::greater:
            return apply(out, a, b, [&](T x, T y) { return truth(x > y); });
        case Opcode::greater_equal:
            return apply(out, a, b, [&](T x, T y) { return truth(x >= y); });
        case Opcode::logical_and:
            return apply(out, a, b, [&](T x, T y) { return truth(x != T(0) && y != T(0)); });
        case Opcode::logical_or:
            return apply(out, a, b, [&](T x, T y) { return truth(x != T(0) || y != T(0)); });
        case Opcode::logical_xor:
            return apply(out, a, b, [&](T x, T y) { return truth((x != T(0)) != (y != T(0))); });
        case Opcode::where: {
            const Pack<T> condition = a, x = b, y = registers[code.c * stride];
            Pack<T> chosen;
#pragma unroll
            for (int i = 0; i < Pack<T>::kEach; ++i) {
                chosen.values[i] = condition.values[i] != T(0) ? x.values[i] : y.values[i];
            }
            out = chosen;
            return;
        }
    }
}

}  // namespace tqs::cuda
