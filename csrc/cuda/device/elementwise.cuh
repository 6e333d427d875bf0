// Elementwise chains: each thread interprets the chain for a Pack of adjacent elements and then, in a tangent rollout,
// multiplies the tangents of its lanes by the Jacobian that the code left in registers: the primal is computed once for
// all of them.
//
//   grid x: Packs of elements of all samples (ensemble: of all lanes, too)    grid y: tangents (TangentShare), or lanes
//           if some operand has a table of them
//
// What it costs: reading inputs and writing outputs is 4 bytes an element each; an instruction is about 20 issue slots
// per Pack, shared by 4 elements. At 20 bytes per cycle and multiprocessor (4.8 TB/s, 132 of them) an addition of two
// inputs has 75 cycles of four slots for 128 elements: chains of some 15 plain instructions are free.
//
// Registers of the chain are in shared memory, [register][thread], so that a warp's accesses never share a bank; chains
// too long for that have them in scratch memory instead.
#pragma once

#include "cuda/device/elementwise_code.cuh"
#include "cuda/device/loops.cuh"

namespace tqs::cuda {

inline constexpr int kElementwiseThreads = 128;
inline constexpr int kElementwiseOperands = kMaxElementwiseInputs + kMaxElementwiseOutputs;

struct ElementwiseArgument {
    Loops<kElementwiseOperands> loops;  // of inputs, then outputs
    Lanes operands[kElementwiseOperands];
    std::uint32_t vectors;  // bit k: Packs of operand k are loaded and stored at once
    bool regular;           // Packs do not cross the ends of the innermost loop
    bool tangent, each_lane;
    int inputs, outputs, registers, instructions, threads;
    std::int64_t lanes, tangents_each;
    const Instruction* code;
    void* registers_memory;  // null: shared memory
    std::int16_t output_registers[kMaxElementwiseOutputs];
    std::int16_t jacobian[kMaxElementwiseOutputs][kMaxElementwiseInputs];
};

// Elements [first, first + kEach) of operand k of a lane, as far as there are any.
template <class T>
__device__ inline Pack<T> load_pack(const ElementwiseArgument& a, int k, const char* data, std::uint32_t first) {
    const Precision precision = a.operands[k].precision;
    Pack<T> pack{};
    if (a.regular) {
        const std::int64_t offset = a.loops.offset(k, first), stride = a.loops.inner_stride(k);
        if (a.vectors >> k & 1u && first + Pack<T>::kEach <= a.loops.count) {
            return *reinterpret_cast<const Pack<T>*>(reinterpret_cast<const T*>(data) + offset);
        }
#pragma unroll
        for (int i = 0; i < Pack<T>::kEach; ++i) {
            if (first + i < a.loops.count) pack.values[i] = load<T>(data, precision, offset + i * stride);
        }
    } else {
#pragma unroll
        for (int i = 0; i < Pack<T>::kEach; ++i) {
            if (first + i < a.loops.count) pack.values[i] = load<T>(data, precision, a.loops.offset(k, first + i));
        }
    }
    return pack;
}

template <class T>
__device__ inline void store_pack(const ElementwiseArgument& a, int k, char* data, std::uint32_t first,
                                  const Pack<T>& pack) {
    const Precision precision = a.operands[k].precision;
    if (a.regular && a.vectors >> k & 1u && first + Pack<T>::kEach <= a.loops.count) {
        *reinterpret_cast<Pack<T>*>(reinterpret_cast<T*>(data) + a.loops.offset(k, first)) = pack;
        return;
    }
#pragma unroll
    for (int i = 0; i < Pack<T>::kEach; ++i) {
        if (first + i < a.loops.count) store(data, precision, a.loops.offset(k, first + i), pack.values[i]);
    }
}

// The tangents of one lane: sums over the inputs, in their order, of d output / d input times the input's tangent.
template <class T, int outputs>
__device__ inline void combine_lane(const ElementwiseArgument& a, const Pack<T>* registers, std::uint32_t first,
                                    std::int64_t lane) {
    Pack<T> sums[outputs] = {};
    for (int i = 0; i < a.inputs; ++i) {
        const char* data = a.operands[i].shared ? nullptr : a.operands[i].lane(lane, true);
        if (!data) continue;
        bool counts = false;
#pragma unroll
        for (int o = 0; o < outputs; ++o) counts = counts || (o < a.outputs && a.jacobian[o][i] != kZeroCoefficient);
        if (!counts) continue;
        const Pack<T> tangent = load_pack<T>(a, i, data, first);
#pragma unroll
        for (int o = 0; o < outputs; ++o) {
            const int coefficient = o < a.outputs ? a.jacobian[o][i] : int{kZeroCoefficient};
            if (coefficient == kUnitCoefficient) {
#pragma unroll
                for (int e = 0; e < Pack<T>::kEach; ++e) sums[o].values[e] += tangent.values[e];
            } else if (coefficient >= 0) {
                const Pack<T> slope = registers[coefficient * a.threads];
#pragma unroll
                for (int e = 0; e < Pack<T>::kEach; ++e) {
                    sums[o].values[e] = fused(slope.values[e], tangent.values[e], sums[o].values[e]);
                }
            }
        }
    }
#pragma unroll
    for (int o = 0; o < outputs; ++o) {
        if (o >= a.outputs) break;
        const int k = a.inputs + o;
        store_pack(a, k, a.operands[k].lane(lane, false), first, sums[o]);
    }
}

// Inputs, code and outputs of one lane.
template <class T>
__device__ inline void run_chain(const ElementwiseArgument& a, Pack<T>* registers, std::uint32_t first,
                                 std::int64_t lane, bool write) {
    for (int i = 0; i < a.inputs; ++i) {
        registers[i * a.threads] = load_pack<T>(a, i, a.operands[i].lane(lane, false), first);
    }
    Instruction next = a.instructions > 0 ? a.code[0] : Instruction{};
    for (int index = 0; index < a.instructions; ++index) {
        const Instruction code = next;  // the following one is on its way meanwhile
        if (index + 1 < a.instructions) next = a.code[index + 1];
        execute<T>(code, registers, a.threads);
    }
    for (int o = 0; write && o < a.outputs; ++o) {
        const int k = a.inputs + o;
        store_pack(a, k, a.operands[k].lane(lane, false), first, registers[a.output_registers[o] * a.threads]);
    }
}

// `outputs`: 1, or as many as there may be.
template <class T, int outputs, bool in_shared>
__global__ void __launch_bounds__(kElementwiseThreads) elementwise(const ElementwiseArgument a) {
    const int thread = static_cast<int>(threadIdx.x);
    Pack<T>* registers;
    if constexpr (in_shared) {
        registers = reinterpret_cast<Pack<T>*>(shared_memory()) + thread;
    } else {
        const std::int64_t block = static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
        registers = static_cast<Pack<T>*>(a.registers_memory) + block * a.registers * a.threads + thread;
    }
    const std::uint32_t step = gridDim.x * static_cast<std::uint32_t>(a.threads) * Pack<T>::kEach;
    for (std::uint32_t first = (blockIdx.x * static_cast<std::uint32_t>(a.threads) + thread) * Pack<T>::kEach;
         first < a.loops.count; first += step) {
        if (!a.tangent) {
            const std::int64_t lanes = a.each_lane ? a.lanes : 1;
            for (std::int64_t lane = blockIdx.y; lane < lanes; lane += gridDim.y) {
                run_chain<T>(a, registers, first, lane, true);
            }
        } else {
            run_chain<T>(a, registers, first, 0, blockIdx.y == 0);
            const std::int64_t begin = 1 + blockIdx.y * a.tangents_each, end = begin + a.tangents_each;
            for (std::int64_t lane = begin; lane < end && lane < a.lanes; ++lane) {
                combine_lane<T, outputs>(a, registers, first, lane);
            }
        }
    }
}

}  // namespace tqs::cuda
