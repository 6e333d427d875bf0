// Elementwise chains: each thread interprets the chain for some adjacent elements, as many as 16 bytes of its operands
// hold (so that operands of 16 bits take two Packs of float32, its `parts`), and then, in a tangent rollout,
// multiplies the tangents of its lanes by the Jacobian that the code left in registers: the primal is computed once for
// all of them.
//
//   grid x: runs of elements of all samples (ensemble: of all lanes, too)    grid y: tangents (TangentShare), or lanes
//           if some operand has a table of them
//
// What it costs: reading inputs and writing outputs is 4 bytes an element each (2, of 16 bits); an instruction is about
// 20 issue slots per Pack, shared by 4 elements. At 20 bytes per cycle and multiprocessor (4.8 TB/s, 132 of them) an
// addition of two inputs has 75 cycles of four slots for 128 elements: chains of some 15 plain instructions are free.
//
// Registers of the chain are in shared memory, [register][thread], so that a warp's accesses never share a bank; chains
// too long for that have them in scratch memory instead.
#pragma once

#include <cstring>

#include "cuda/device/elementwise_code.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

inline constexpr int kElementwiseThreads = 128;
inline constexpr int kElementwiseOperands = kMaxElementwiseInputs + kMaxElementwiseOutputs;

struct ElementwiseArgument {
    Loops<kElementwiseOperands> loops;  // of inputs, then outputs
    Lanes operands[kElementwiseOperands];
    std::uint32_t vectors;  // bit k: a thread's elements of operand k are loaded and stored in vectors
    bool regular;           // they do not cross the ends of the innermost loop
    bool tangent, each_lane;
    int inputs, outputs, registers, instructions, threads;
    std::int64_t lanes, tangents_each;
    const Instruction* code;
    void* registers_memory;  // null: shared memory
    std::int16_t output_registers[kMaxElementwiseOutputs];
    std::int16_t jacobian[kMaxElementwiseOutputs][kMaxElementwiseInputs];
};

// What a thread computes at a time.
template <class T, int parts>
struct Elements {
    static constexpr int kEach = parts * Pack<T>::kEach;
    T values[kEach];
};

// `count` elements from or to memory that is aligned to as many of them, or to 16 bytes.
template <class Stored, class T, int count>
__device__ inline void load_vectors(const Stored* from, T (&to)[count]) {
    constexpr int kEach = count < Pack<Stored>::kEach ? count : Pack<Stored>::kEach;
    struct alignas(kEach * sizeof(Stored)) Vectors {
        Stored values[kEach];
    };
#pragma unroll
    for (int i = 0; i < count; i += kEach) {
        const Vectors stored = *reinterpret_cast<const Vectors*>(from + i);
#pragma unroll
        for (int j = 0; j < kEach; ++j) to[i + j] = number(stored.values[j]);
    }
}
template <class Stored, class T, int count>
__device__ inline void store_vectors(Stored* to, const T (&from)[count]) {
    constexpr int kEach = count < Pack<Stored>::kEach ? count : Pack<Stored>::kEach;
    struct alignas(kEach * sizeof(Stored)) Vectors {
        Stored values[kEach];
    };
#pragma unroll
    for (int i = 0; i < count; i += kEach) {
        Vectors stored;
#pragma unroll
        for (int j = 0; j < kEach; ++j) stored.values[j] = rounded<Stored>(from[i + j]);
        *reinterpret_cast<Vectors*>(to + i) = stored;
    }
}

// Elements [first, first + kEach) of operand k of a lane, as far as there are any.
template <class T, int parts>
__device__ inline Elements<T, parts> load_elements(const ElementwiseArgument& a, int k, const char* data,
                                                   std::uint32_t first) {
    constexpr int kEach = Elements<T, parts>::kEach;
    const Precision precision = a.operands[k].precision;
    Elements<T, parts> elements{};
    if (a.regular) {
        const std::int64_t offset = a.loops.offset(k, first), stride = a.loops.inner_stride(k);
        if (a.vectors >> k & 1u && first + kEach <= a.loops.count) {
            if (precision == kPrecisionOf<T>) {
                load_vectors(reinterpret_cast<const T*>(data) + offset, elements.values);
            } else if constexpr (sizeof(T) == 4) {
                if (precision == Precision::bfloat16) {
                    load_vectors(reinterpret_cast<const Bfloat16*>(data) + offset, elements.values);
                } else {
                    load_vectors(reinterpret_cast<const Float16*>(data) + offset, elements.values);
                }
            }
            return elements;
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            if (first + i < a.loops.count) elements.values[i] = load<T>(data, precision, offset + i * stride);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            if (first + i < a.loops.count) elements.values[i] = load<T>(data, precision, a.loops.offset(k, first + i));
        }
    }
    return elements;
}

template <class T, int parts>
__device__ inline void store_elements(const ElementwiseArgument& a, int k, char* data, std::uint32_t first,
                                      const Elements<T, parts>& elements) {
    constexpr int kEach = Elements<T, parts>::kEach;
    const Precision precision = a.operands[k].precision;
    if (a.regular && a.vectors >> k & 1u && first + kEach <= a.loops.count) {
        const std::int64_t offset = a.loops.offset(k, first);
        if (precision == kPrecisionOf<T>) {
            store_vectors(reinterpret_cast<T*>(data) + offset, elements.values);
        } else if constexpr (sizeof(T) == 4) {
            if (precision == Precision::bfloat16) {
                store_vectors(reinterpret_cast<Bfloat16*>(data) + offset, elements.values);
            } else {
                store_vectors(reinterpret_cast<Float16*>(data) + offset, elements.values);
            }
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        if (first + i < a.loops.count) store(data, precision, a.loops.offset(k, first + i), elements.values[i]);
    }
}

// Register `number` of this thread.
template <class T, int parts>
__device__ inline Elements<T, parts> get(const ElementwiseArgument& a, const Pack<T>* registers, int number) {
    Elements<T, parts> elements;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        const Pack<T> pack = registers[(number * parts + part) * a.threads];
        std::memcpy(elements.values + part * Pack<T>::kEach, pack.values, sizeof pack.values);
    }
    return elements;
}
template <class T, int parts>
__device__ inline void put(const ElementwiseArgument& a, Pack<T>* registers, int number,
                           const Elements<T, parts>& elements) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        Pack<T> pack;
        std::memcpy(pack.values, elements.values + part * Pack<T>::kEach, sizeof pack.values);
        registers[(number * parts + part) * a.threads] = pack;
    }
}

// The tangents of one lane: sums over the inputs, in their order, of d output / d input times the input's tangent.
template <class T, int outputs, int parts>
__device__ inline void combine_lane(const ElementwiseArgument& a, const Pack<T>* registers, std::uint32_t first,
                                    std::int64_t lane) {
    constexpr int kEach = Elements<T, parts>::kEach;
    Elements<T, parts> sums[outputs] = {};
    for (int i = 0; i < a.inputs; ++i) {
        const char* data = a.operands[i].shared ? nullptr : a.operands[i].lane(lane, true);
        if (!data) continue;
        bool counts = false;
#pragma unroll
        for (int o = 0; o < outputs; ++o) counts = counts || (o < a.outputs && a.jacobian[o][i] != kZeroCoefficient);
        if (!counts) continue;
        const Elements<T, parts> tangent = load_elements<T, parts>(a, i, data, first);
#pragma unroll
        for (int o = 0; o < outputs; ++o) {
            const int coefficient = o < a.outputs ? a.jacobian[o][i] : int{kZeroCoefficient};
            if (coefficient == kUnitCoefficient) {
#pragma unroll
                for (int e = 0; e < kEach; ++e) sums[o].values[e] += tangent.values[e];
            } else if (coefficient >= 0) {
                const Elements<T, parts> slope = get<T, parts>(a, registers, coefficient);
#pragma unroll
                for (int e = 0; e < kEach; ++e) {
                    sums[o].values[e] = fused(slope.values[e], tangent.values[e], sums[o].values[e]);
                }
            }
        }
    }
#pragma unroll
    for (int o = 0; o < outputs; ++o) {
        if (o >= a.outputs) break;
        const int k = a.inputs + o;
        store_elements(a, k, a.operands[k].lane(lane, false), first, sums[o]);
    }
}

// Inputs, code and outputs of one lane.
template <class T, int parts>
__device__ inline void run_chain(const ElementwiseArgument& a, Pack<T>* registers, std::uint32_t first,
                                 std::int64_t lane, bool write) {
    for (int i = 0; i < a.inputs; ++i) {
        put(a, registers, i, load_elements<T, parts>(a, i, a.operands[i].lane(lane, false), first));
    }
    Instruction next = a.instructions > 0 ? a.code[0] : Instruction{};
    for (int index = 0; index < a.instructions; ++index) {
        const Instruction code = next;  // the following one is on its way meanwhile
        if (index + 1 < a.instructions) next = a.code[index + 1];
        execute<T, parts>(code, registers, a.threads);
    }
    for (int o = 0; write && o < a.outputs; ++o) {
        const int k = a.inputs + o;
        store_elements(a, k, a.operands[k].lane(lane, false), first,
                       get<T, parts>(a, registers, a.output_registers[o]));
    }
}

// `outputs`: 1, or as many as there may be.
template <class T, int outputs, int parts, bool in_shared>
__global__ void __launch_bounds__(kElementwiseThreads) elementwise(const ElementwiseArgument a) {
    begin_kernel();
    const int thread = static_cast<int>(threadIdx.x);
    Pack<T>* registers;
    if constexpr (in_shared) {
        registers = reinterpret_cast<Pack<T>*>(shared_memory()) + thread;
    } else {
        const std::int64_t block = static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
        registers = static_cast<Pack<T>*>(a.registers_memory) + block * a.registers * parts * a.threads + thread;
    }
    constexpr std::uint32_t kEach = Elements<T, parts>::kEach;
    const std::uint32_t step = gridDim.x * static_cast<std::uint32_t>(a.threads) * kEach;
    for (std::uint32_t first = (blockIdx.x * static_cast<std::uint32_t>(a.threads) + thread) * kEach;
         first < a.loops.count; first += step) {
        if (!a.tangent) {
            const std::int64_t lanes = a.each_lane ? a.lanes : 1;
            for (std::int64_t lane = blockIdx.y; lane < lanes; lane += gridDim.y) {
                run_chain<T, parts>(a, registers, first, lane, true);
            }
        } else {
            run_chain<T, parts>(a, registers, first, 0, blockIdx.y == 0);
            const std::int64_t begin = 1 + blockIdx.y * a.tangents_each, end = begin + a.tangents_each;
            for (std::int64_t lane = begin; lane < end && lane < a.lanes; ++lane) {
                combine_lane<T, outputs, parts>(a, registers, first, lane);
            }
        }
    }
}

}  // namespace tqs::cuda
