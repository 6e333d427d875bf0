// What only sm_90a has, one thin wrapper each, as in instructions.cuh (which this completes; the emulator has a twin of
// this file, too). Files that include it are compiled for 9.0a alone (cmake/cuda.cmake).
//
// A *warpgroup* is four warps, the first a multiple of four; its collectives are called by all 128 threads. A product
// c += a b has a [64, k] in registers, warp w of the group holding rows 16 w ... as a fragment of m16n8k16 or m16n8k32
// (instructions.cuh), or in shared memory, b [k, N] in shared memory, and c [64, N] as N / 8 fragments of those
// instructions.
//
// b lies in *atoms* of 8 columns of the product x 128 bytes along k, 1024-byte aligned, one after the other along N:
// byte i of column n is at 128 (n mod 8) + (i xor 16 (n mod 8)) of its atom ("128-byte swizzle", K-major). A product
// reads 32 bytes of every column, from byte 0, 32, 64 or 96 on. Rows of a in shared memory lie like columns of b.
//
// The same memory read the other way (MN-major) is a b *by rows*, of 16-bit elements: an atom has 8 rows of k with 64
// columns each, atoms follow each other along k, and what has the next 64 columns lies `beside` bytes further on.
//
// A descriptor (matrix_descriptor.h) has the stride from atom to atom, and as leading offset `beside` by rows; else
// that is not used with this swizzle, and 16. (CUTLASS's comment on make_gmma_desc has both orders.)
//
// A product runs behind the threads' back. Until wait_products says so its registers may be neither read (c) nor
// written (a, c), and b must stay.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/instructions.cuh"
#include "cuda/device/matrix_descriptor.h"

namespace tqs::cuda {

inline constexpr int kAtomColumns = 8;
inline constexpr int kAtomBytes = 1024;

// Where `pointer` into shared memory lies there, in bytes.
__device__ inline std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ------------------------------------------------------------------------------------------------ registers
// Per thread, a multiple of 8 from 24 to 256, from now on; by all of a warpgroup. What some release others may claim,
// and wait for.

template <int count>
__device__ inline void release_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ inline void claim_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

// ------------------------------------------------------------------------------------------------ clusters
// Blocks of a cluster reach each other's shared memory, whose parts lie at equal addresses within it.

__device__ inline int cluster_rank() {
    std::uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}
// Of all threads of the cluster; those of a warp come together.
__device__ inline void cluster_barrier() {
    warp_barrier();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ------------------------------------------------------------------------------------------------ barriers in memory
// A phase is over when as many threads have arrived as the barrier was made for and all announced bytes have come.

struct alignas(8) Barrier {
    std::uint64_t state;
};

// By one thread; then `publish_barriers` by it, and a barrier of the cluster. Bulk copies see memory through a proxy of
// their own, hence the second fence.
__device__ inline void make_barrier(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ inline void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// At a barrier of this block.
__device__ inline void arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// At the barrier of block `rank` of the cluster, when all that this warp wants of a stage is in its registers or was
// read by products it has waited for. As in CUTLASS's pipelines nothing written is handed over: `release.cluster`,
// which would, fences all of device memory.
__device__ inline void arrive(Barrier* barrier, int rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}
// Arrives, and announces `bytes` of bulk copies.
__device__ inline void arrive_expecting(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Until a phase of this parity is over; the first phase has parity 0, and the one before it counts as over.
__device__ inline void wait_phase(Barrier* barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred over;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@over bra done;\n"
        "bra again;\n"
        "done:\n"
        "}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}
// `bytes` from global to shared memory, all multiples of 16, announced to `barrier`.
__device__ inline void copy_bulk(unsigned char* shared, const void* global, int bytes, Barrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}
// The same into the shared memory of the blocks whose bits are set in `ranks`, announced to the barrier of each.
__device__ inline void copy_bulk_to(unsigned char* shared, const void* global, int bytes, Barrier* barrier,
                                    std::uint16_t ranks) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier)), "h"(ranks)
        : "memory");
}

// ------------------------------------------------------------------------------------------------ products

// What this thread wrote to shared memory, its finished copy_async among it, becomes what products read, which see
// memory through the proxy of bulk copies: before others learn that it is there.
__device__ inline void show_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ inline std::uint64_t describe_atoms(const unsigned char* atoms) {
    return matrix_descriptor(shared_address(atoms), 16, kAtomBytes);
}
// Of b by rows.
template <int beside>
__device__ inline std::uint64_t describe_atoms_by_rows(const unsigned char* atoms) {
    static_assert(beside % kAtomBytes == 0);
    return matrix_descriptor(shared_address(atoms), beside, kAtomBytes);
}

// What writes these registers is not moved behind this, what reads them not before it: for the compiler there is no
// order between registers and what follows.
template <class Number, int fragments>
__device__ inline void settle(Number (&registers)[fragments][4]) {
#pragma unroll
    for (int i = 0; i < 4 * fragments; ++i) {
        if constexpr (std::is_same_v<Number, float>) {
            asm volatile("" : "+f"(registers[i / 4][i % 4])::"memory");
        } else {
            asm volatile("" : "+r"(registers[i / 4][i % 4])::"memory");
        }
    }
}
// Before products whose registers other instructions have written.
template <class... Registers>
__device__ inline void fence_products(Registers&... written) {
    (settle(written), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most `pending` of the committed groups are unfinished; `settle` what is then read.
template <int pending>
__device__ inline void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Of one thread.
using Fragment = std::uint32_t[4];

// clang-format off
#define TQS_FOUR(kind, c, i) kind(c[i][0]), kind(c[i][1]), kind(c[i][2]), kind(c[i][3])
#define TQS_32(kind, c, i) TQS_FOUR(kind, c, i), TQS_FOUR(kind, c, i + 1), TQS_FOUR(kind, c, i + 2), \
    TQS_FOUR(kind, c, i + 3), TQS_FOUR(kind, c, i + 4), TQS_FOUR(kind, c, i + 5), TQS_FOUR(kind, c, i + 6), \
    TQS_FOUR(kind, c, i + 7)
#define TQS_SUMS_32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define TQS_SUMS_64 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
    "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
    "%62, %63}"
#define TQS_REGISTERS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
#define TQS_DESCRIPTOR "l"(a)
#define TQS_PRODUCT(name, text, names, flag, last, Sum, fragments, Left, left, ...)                                  \
    __device__ inline void name(Sum (&c)[fragments][4], Left a, std::uint64_t b, bool add) {                         \
        asm volatile("{\n.reg .pred sum;\nsetp.ne.b32 sum, " flag ", 0;\n"                                           \
                     "wgmma.mma_async.sync.aligned." text " " names ", sum" last ";\n}"                              \
                     : __VA_ARGS__                                                                                   \
                     : left, "l"(b), "r"(static_cast<int>(add)));                                                    \
    }
#define TQS_PRODUCT_64(name, text, last, Sum, constraint)                                                            \
    TQS_PRODUCT(name, "m64n64" text, TQS_SUMS_32 ", {%32, %33, %34, %35}, %36", "%37", last, Sum, 8,                 \
                const Fragment&, TQS_REGISTERS, TQS_32(constraint, c, 0))
#define TQS_PRODUCT_128(name, text, last, Sum, constraint)                                                           \
    TQS_PRODUCT(name, "m64n128" text, TQS_SUMS_64 ", {%64, %65, %66, %67}, %68", "%69", last, Sum, 16,               \
                const Fragment&, TQS_REGISTERS, TQS_32(constraint, c, 0), TQS_32(constraint, c, 8))
// c = a b, or c += a b where `add`. The last numbers: signs of a and b, then whether a in shared memory, and b, are read
// by rows.
TQS_PRODUCT_64(products_bfloat16, "k16.f32.bf16.bf16", ", 1, 1, 0", float, "+f")
TQS_PRODUCT_128(products_bfloat16, "k16.f32.bf16.bf16", ", 1, 1, 0", float, "+f")
TQS_PRODUCT_64(products_float16, "k16.f32.f16.f16", ", 1, 1, 0", float, "+f")
TQS_PRODUCT_128(products_float16, "k16.f32.f16.f16", ", 1, 1, 0", float, "+f")
// b by rows.
TQS_PRODUCT_64(products_by_rows_bfloat16, "k16.f32.bf16.bf16", ", 1, 1, 1", float, "+f")
TQS_PRODUCT_128(products_by_rows_bfloat16, "k16.f32.bf16.bf16", ", 1, 1, 1", float, "+f")
TQS_PRODUCT_64(products_by_rows_float16, "k16.f32.f16.f16", ", 1, 1, 1", float, "+f")
TQS_PRODUCT_128(products_by_rows_float16, "k16.f32.f16.f16", ", 1, 1, 1", float, "+f")
// a in shared memory, too.
TQS_PRODUCT(products_bfloat16, "m64n64k16.f32.bf16.bf16", TQS_SUMS_32 ", %32, %33", "%34", ", 1, 1, 0, 0", float, 8,
            std::uint64_t, TQS_DESCRIPTOR, TQS_32("+f", c, 0))
TQS_PRODUCT(products_float16, "m64n64k16.f32.f16.f16", TQS_SUMS_32 ", %32, %33", "%34", ", 1, 1, 0, 0", float, 8,
            std::uint64_t, TQS_DESCRIPTOR, TQS_32("+f", c, 0))
// a unsigned, b signed bytes.
TQS_PRODUCT_64(products_int8, "k32.s32.u8.s8", "", int, "+r")
TQS_PRODUCT_128(products_int8, "k32.s32.u8.s8", "", int, "+r")
#undef TQS_PRODUCT_128
#undef TQS_PRODUCT_64
#undef TQS_PRODUCT
#undef TQS_DESCRIPTOR
#undef TQS_REGISTERS
#undef TQS_SUMS_64
#undef TQS_SUMS_32
#undef TQS_32
#undef TQS_FOUR
// clang-format on

}  // namespace tqs::cuda
