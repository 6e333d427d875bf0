// What the hardware does, one thin wrapper each; every other file of device code is written over these and is also
// compiled as ordinary C++ against tests/native/cuda_emulator, whose file of the same name takes the place of this one.
//
// Fragments of the tensor instructions, lane = 4 g + t, as in the PTX ISA ("Matrix fragments for mma.m16n8k16" and
// "... mma.m16n8k32"; CUTLASS's MMA_Traits of SM80_16x8x16 and SM80_16x8x32 say the same):
//
//   m16n8k16  a[0..3], two 16-bit values each: (row, k) = (g, 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8) and k + 1
//             b[0..1]: (k, column) = (2t, g) (2t + 8, g) and k + 1
//   m16n8k32  a[0..3], four bytes each: (g, 4t) (g + 8, 4t) (g, 4t + 16) (g + 8, 4t + 16) and k + 1 ... k + 3
//             b[0..1]: (4t, g) (4t + 16, g) and k + 1 ... k + 3
//   both      c[0..3]: (row, column) = (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)
//   ldmatrix  four matrices of 8 rows of 16 bytes, row r of matrix i where lane 8 i + r points to; word i of the result
//             is (row, columns) = (g, 2t and 2t + 1) of matrix i, or transposed (rows, column) = (2t and 2t + 1, g)
//
// Loads and matrix products are volatile: the compiler keeps them in the order and in the (uniform) branch where they
// are written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nv/target>

namespace tqs::cuda {

// 16 bytes, loaded and stored at once.
struct alignas(16) Vector {
    std::uint32_t words[4];
};

// First of all in a kernel of programs, by every thread: the kernel may have been launched before the one before it
// ended (cuda/program/launch.cuh). From here on all is done that was enqueued before, and the next one may be launched.
__device__ inline void begin_kernel() {
    // clang-format off
    NV_IF_TARGET(NV_PROVIDES_SM_90, (
        asm volatile("griddepcontrol.wait;" ::: "memory");
        asm volatile("griddepcontrol.launch_dependents;");))
    // clang-format on
}

// The same address, known to be of global memory. Of one that a kernel has read (from a table) the compiler does not
// know: it would be accessed by the slower instructions for any memory, in order with those for shared memory.
template <class T>
__device__ inline T* in_global(T* address) {
    return static_cast<T*>(__cvta_global_to_generic(reinterpret_cast<std::size_t>(address)));
}

// The dynamic shared memory of this block, 128-byte aligned.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char bytes[];
    return bytes;
}

__device__ inline void block_barrier() {
    __syncthreads();
}

// Of the first `threads` threads of the block, whole warps; the others may have left.
template <int threads>
__device__ inline void part_barrier() {
    asm volatile("bar.sync 1, %0;" ::"n"(threads) : "memory");
}

__device__ inline void warp_barrier() {
    __syncwarp();
}

// The value of the lane whose number differs in the bits of `mask`; all lanes of the warp call.
__device__ inline float shuffle_xor(float value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
__device__ inline int shuffle_xor(int value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
__device__ inline double shuffle_xor(double value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
// The value of lane `lane`; all lanes of the warp call.
__device__ inline int shuffle_from(int value, int lane) {
    return __shfl_sync(0xFFFFFFFFu, value, lane);
}

// Read-only global memory that many blocks read (x): kept in L1.
__device__ inline Vector load_shared_data(const void* address) {
    Vector value;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.words[0]), "=r"(value.words[1]), "=r"(value.words[2]), "=r"(value.words[3])
                 : "l"(address));
    return value;
}
// Read-only global memory that is read once (weights): it must not push the rest out of L1.
__device__ inline Vector load_streamed(const void* address) {
    Vector value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.words[0]), "=r"(value.words[1]), "=r"(value.words[2]), "=r"(value.words[3])
                 : "l"(address));
    return value;
}
__device__ inline std::uint32_t load_word(const std::uint32_t* address) {
    return __ldg(address);
}
__device__ inline std::uint16_t load_half_word(const std::uint16_t* address) {
    return __ldg(address);
}
__device__ inline Vector load_from_shared(const unsigned char* address) {
    return *reinterpret_cast<const Vector*>(address);
}

// Four 8 x 8 matrices of 16-bit elements from shared memory; `address`, 16-byte aligned, of the row that is this
// lane's.
__device__ inline void load_matrices(const unsigned char* address, std::uint32_t (&matrices)[4]) {
    const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(address));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared));
}
__device__ inline void load_matrices_transposed(const unsigned char* address, std::uint32_t (&matrices)[4]) {
    const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(address));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared));
}

// What other blocks wrote during this kernel: past L1, which is not coherent.
__device__ inline float load_fresh(const float* address) {
    return __ldcg(address);
}
__device__ inline int load_fresh(const int* address) {
    return __ldcg(address);
}
__device__ inline void device_fence() {
    __threadfence();
}
// Adds one, returns what was there; at `last` the counter returns to 0.
__device__ inline unsigned count_to(unsigned* counter, unsigned last) {
    return atomicInc(counter, last);
}

// 16 bytes from global to shared memory, both 16-byte aligned, behind this thread's back; `valid` false writes zeros
// and reads nothing. The data may be read after wait_copies<...> by this thread, and after a barrier then by others.
__device__ inline void copy_async(unsigned char* shared, const void* global, bool valid) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
    const std::uint32_t bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}
// The same with one element of 4 or 8 bytes, aligned to its size.
template <class T>
__device__ inline void copy_element_async(T* shared, const T* global, bool valid) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
    const std::uint32_t bytes = valid ? sizeof(T) : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(sizeof(T)), "r"(bytes)
                 : "memory");
}
__device__ inline void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most `pending` of the committed groups are unfinished.
template <int pending>
__device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// (a & b) | c in one instruction.
__device__ inline std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}
// Byte i of the result is byte (selector >> 4 i) & 7 of the eight of b:a.
__device__ inline std::uint32_t permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
    return __byte_perm(a, b, selector);
}

// Pairs of bfloat16: a * b + c, rounded once. (Adding alone is an instruction only from sm_90 on.)
__device__ inline std::uint32_t fma_bfloat16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}
// Pairs of float16.
__device__ inline std::uint32_t add_float16x2(std::uint32_t a, std::uint32_t b) {
    std::uint32_t result;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

__device__ inline float as_float(std::uint32_t bits) {
    return __uint_as_float(bits);
}
__device__ inline std::uint32_t as_bits(float value) {
    return __float_as_uint(value);
}
__device__ inline float fused(float a, float b, float c) {
    return __fmaf_rn(a, b, c);
}
__device__ inline double fused(double a, double b, double c) {
    return __fma_rn(a, b, c);
}
// Never contracted with what follows.
__device__ inline float product(float a, float b) {
    return __fmul_rn(a, b);
}
__device__ inline double product(double a, double b) {
    return __dmul_rn(a, b);
}
__device__ inline float quotient(float a, float b) {
    return __fdiv_rn(a, b);
}
// To the nearest integer, ties to even.
__device__ inline int round_to_int(float value) {
    return __float2int_rn(value);
}
__device__ inline float from_int(int value) {
    return __int2float_rn(value);
}
__device__ inline float float16_to_float(std::uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline std::uint16_t float_to_float16(float value) {
    std::uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Both rounded to nearest, ties to even; `low` in the lower half.
__device__ inline std::uint32_t bfloat16_pair(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ inline std::uint32_t float16_pair(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
// 2^value to 2 units in the last place; below 2^-126 it is 0.
__device__ inline float power_of_two(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
}

// c += a b for a 16 x 16, b 16 x 8 of bfloat16.
__device__ inline void mma_bfloat16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_float16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c += a b for a 16 x 32 of unsigned, b 32 x 8 of signed bytes.
__device__ inline void mma_int8(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace tqs::cuda
