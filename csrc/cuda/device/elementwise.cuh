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
#include "cuda/device/vectors.cuh"

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

// As as_stored, of every precision.
template <class F>
__device__ inline void as_any(char* data, Precision precision, const F& f) {
    switch (precision) {
        case Precision::float32:
            return f(reinterpret_cast<float*>(data));
        case Precision::float64:
            return f(reinterpret_cast<double*>(data));
        case Precision::bfloat16:
            return f(reinterpret_cast<Bfloat16*>(data));
        default:
            return f(reinterpret_cast<Float16*>(data));
    }
}

// Calls f(i, element first + i of operand k, as it is stored) for all of a thread's elements that there are. Of loops
// that are not regular a thread takes one Pack.
template <class T, int parts, class F>
__device__ inline void one_by_one(const ElementwiseArgument& a, int k, char* data, std::uint32_t first, const F& f) {
    constexpr int kEach = Elements<T, parts>::kEach;
    const Precision precision = a.operands[k].precision;
    if (parts > 1 || a.regular) {
        const std::int64_t offset = a.loops.offset(k, first), stride = a.loops.inner_stride(k);
        as_any(data, precision, [&](auto* stored) {
            stored += offset;
#pragma unroll
            for (int i = 0; i < kEach; ++i, stored += stride) {
                if (first + i < a.loops.count) f(i, *stored);
            }
        });
    } else {
        std::int64_t offsets[kEach];
#pragma unroll
        for (int i = 0; i < kEach; ++i) offsets[i] = a.loops.offset(k, first + i);
        as_any(data, precision, [&](auto* stored) {
#pragma unroll
            for (int i = 0; i < kEach; ++i) {
                if (first + i < a.loops.count) f(i, stored[offsets[i]]);
            }
        });
    }
}

// Elements [first, first + kEach) of operand k of a lane, as far as there are any.
template <class T, int parts>
__device__ inline Elements<T, parts> load_elements(const ElementwiseArgument& a, int k, char* data,
                                                   std::uint32_t first) {
    constexpr int kEach = Elements<T, parts>::kEach;
    Elements<T, parts> elements{};
    if (a.vectors >> k & 1u && first + kEach <= a.loops.count) {
        const std::int64_t offset = a.loops.offset(k, first);
        as_stored<T>(data, a.operands[k].precision,
                     [&](const auto* stored) { load_vectors(stored + offset, elements.values); });
        return elements;
    }
    one_by_one<T, parts>(a, k, data, first,
                         [&](int i, const auto& stored) { elements.values[i] = static_cast<T>(number(stored)); });
    return elements;
}

template <class T, int parts>
__device__ inline void store_elements(const ElementwiseArgument& a, int k, char* data, std::uint32_t first,
                                      const Elements<T, parts>& elements) {
    constexpr int kEach = Elements<T, parts>::kEach;
    if (a.vectors >> k & 1u && first + kEach <= a.loops.count) {
        const std::int64_t offset = a.loops.offset(k, first);
        as_stored<T>(data, a.operands[k].precision,
                     [&](auto* stored) { store_vectors(stored + offset, elements.values); });
        return;
    }
    one_by_one<T, parts>(a, k, data, first, [&](int i, auto& stored) {
        stored = rounded<std::remove_reference_t<decltype(stored)>>(elements.values[i]);
    });
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
// Output by output: what several of them read is still in a cache when the next one does.
template <class T, int parts>
__device__ inline void combine_lane(const ElementwiseArgument& a, const Pack<T>* registers, std::uint32_t first,
                                    std::int64_t lane) {
    constexpr int kEach = Elements<T, parts>::kEach;
#pragma unroll 1
    for (int o = 0; o < a.outputs; ++o) {
        Elements<T, parts> sum{};
        for (int i = 0; i < a.inputs; ++i) {
            const int coefficient = a.jacobian[o][i];
            if (coefficient == kZeroCoefficient) continue;
            char* data = a.operands[i].shared ? nullptr : a.operands[i].lane(lane, true);
            if (!data) continue;
            const Elements<T, parts> tangent = load_elements<T, parts>(a, i, data, first);
            if (coefficient == kUnitCoefficient) {
#pragma unroll
                for (int e = 0; e < kEach; ++e) sum.values[e] += tangent.values[e];
            } else {
                const Elements<T, parts> slope = get<T, parts>(a, registers, coefficient);
#pragma unroll
                for (int e = 0; e < kEach; ++e) {
                    sum.values[e] = fused(slope.values[e], tangent.values[e], sum.values[e]);
                }
            }
        }
        const int k = a.inputs + o;
        store_elements(a, k, a.operands[k].lane(lane, false), first, sum);
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

template <class T, int parts, bool in_shared>
__global__ void __launch_bounds__(kElementwiseThreads, 8) elementwise(const ElementwiseArgument a) {
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
        // In a tangent rollout lane 0, by every block; else this block's lanes.
        const std::int64_t lanes = a.each_lane ? a.lanes : 1;
        for (std::int64_t lane = a.tangent ? 0 : blockIdx.y; lane < lanes; lane += gridDim.y) {
            run_chain<T, parts>(a, registers, first, lane, !a.tangent || blockIdx.y == 0);
        }
        if (!a.tangent) continue;
        const std::int64_t begin = 1 + blockIdx.y * a.tangents_each, end = begin + a.tangents_each;
        for (std::int64_t lane = begin; lane < end && lane < a.lanes; ++lane) {
            combine_lane<T, parts>(a, registers, first, lane);
        }
    }
}

}  // namespace tqs::cuda
