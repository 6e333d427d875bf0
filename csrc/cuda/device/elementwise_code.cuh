// One instruction of an elementwise chain on the elements of one thread. Registers lie in memory, one or two Packs of
// adjacent elements each: which one an instruction names is known only when it runs, and the hardware's registers
// cannot be chosen then. Costly functions go element by element in a loop, so that each is in the kernel once.
#pragma once

#include "cuda/device/functions.cuh"
#include "cuda/device/lanes.cuh"

namespace tqs::cuda {

// A register of one thread: `parts` Packs, which lie apart so that those of a warp's threads are side by side.
template <class T, int parts>
struct Register {
    Pack<T>* first;
    int step;
    __device__ Pack<T>& operator[](int part) const { return first[part * step]; }
};

template <class T, int parts, class F>
__device__ inline void apply(Register<T, parts> out, Register<T, parts> a, const F& f) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        const Pack<T> x = a[part];
        Pack<T> y;
#pragma unroll
        for (int i = 0; i < Pack<T>::kEach; ++i) y.values[i] = f(x.values[i]);
        out[part] = y;
    }
}

template <class T, int parts, class F>
__device__ inline void apply(Register<T, parts> out, Register<T, parts> a, Register<T, parts> b, const F& f) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        const Pack<T> x = a[part], y = b[part];
        Pack<T> z;
#pragma unroll
        for (int i = 0; i < Pack<T>::kEach; ++i) z.values[i] = f(x.values[i], y.values[i]);
        out[part] = z;
    }
}

template <class T, int parts, class F>
__device__ inline void apply_each(Register<T, parts> out, Register<T, parts> a, const F& f) {
#pragma unroll 1
    for (int i = 0; i < parts * Pack<T>::kEach; ++i) {
        const int part = i / Pack<T>::kEach, at = i % Pack<T>::kEach;
        out[part].values[at] = f(a[part].values[at]);
    }
}

template <class T, int parts, class F>
__device__ inline void apply_each(Register<T, parts> out, Register<T, parts> a, Register<T, parts> b, const F& f) {
#pragma unroll 1
    for (int i = 0; i < parts * Pack<T>::kEach; ++i) {
        const int part = i / Pack<T>::kEach, at = i % Pack<T>::kEach;
        out[part].values[at] = f(a[part].values[at], b[part].values[at]);
    }
}

// Part p of register r of this thread is registers[(r * parts + p) * stride].
template <class T, int parts>
__device__ inline void execute(const Instruction& code, Pack<T>* registers, int stride) {
    const auto at = [&](int number) {
        return Register<T, parts>{registers + number * parts * stride, stride};
    };
    const Register<T, parts> out = at(code.out), a = at(code.a), b = at(code.b);
    const auto truth = [](bool holds) {
        return holds ? T(1) : T(0);
    };
    switch (code.op) {
        case Opcode::constant: {
#pragma unroll
            for (int part = 0; part < parts; ++part) {
                Pack<T> pack;
#pragma unroll
                for (int i = 0; i < Pack<T>::kEach; ++i) pack.values[i] = static_cast<T>(code.value);
                out[part] = pack;
            }
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
            const Register<T, parts> c = at(code.c);
#pragma unroll
            for (int part = 0; part < parts; ++part) {
                const Pack<T> condition = a[part], x = b[part], y = c[part];
                Pack<T> chosen;
#pragma unroll
                for (int i = 0; i < Pack<T>::kEach; ++i) {
                    chosen.values[i] = condition.values[i] != T(0) ? x.values[i] : y.values[i];
                }
                out[part] = chosen;
            }
            return;
        }
    }
}

}  // namespace tqs::cuda
