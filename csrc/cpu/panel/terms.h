// What meets in the innermost loop of qgemm, for each form of the activations (layout.h): `kCodes` inputs of every
// output at a time, the lowest ones of the words of its codes.
//
//   Decoder(zeros, zero)(words)  those codes as numbers `Value`
//   broadcast(x)                 a word of a row of x, to all lanes
//   add(sum, value, x)           sum with the products added
#pragma once

#include <cstdint>
#include <cstring>

#include "backend/kernel_table.h"

namespace tqs::panel {

template <class V, Activation activation, int bits, bool symmetric>
struct Terms;

template <class V, int bits, bool symmetric>
struct Terms<V, Activation::exact, bits, symmetric> {
    using Sum = typename V::Float;
    using Value = typename V::Float;
    using Decoder = typename V::template Decoder<bits, symmetric>;
    static constexpr int kCodes = 1;

    static Sum broadcast(const std::uint32_t* x) {
        float value;
        std::memcpy(&value, x, sizeof value);
        return V::broadcast(value);
    }
    static Sum add(Sum sum, Value value, Sum x) { return V::accumulate(sum, value, x); }
};

template <class V, int bits, bool symmetric>
struct Terms<V, Activation::pairs, bits, symmetric> {
    using Sum = typename V::Float;
    using Value = typename V::Int;
    using Decoder = typename V::template PairDecoder<bits, symmetric>;
    static constexpr int kCodes = 2;

    static Value broadcast(const std::uint32_t* x) { return V::broadcast_int(static_cast<std::int32_t>(*x)); }
    static Sum add(Sum sum, Value value, Value x) { return V::dot_pairs(sum, value, x); }
};

// The codes, less V::code_offset(bits): their zero points are in the offsets that the sums start from.
template <class V, int bits, bool symmetric>
struct Terms<V, Activation::int8, bits, symmetric> {
    using Sum = typename V::Int;
    using Value = typename V::Int;
    struct Decoder {
        Decoder() = default;
        Decoder(const std::uint8_t*, int) {}
        Value operator()(Value words) const { return V::template low_bits<bits>(words); }
    };
    static constexpr int kCodes = 4;

    static Value broadcast(const std::uint32_t* x) { return V::broadcast_int(static_cast<std::int32_t>(*x)); }
    static Sum add(Sum sum, Value value, Value x) { return V::template dot<bits>(sum, value, x); }
};

}  // namespace tqs::panel
