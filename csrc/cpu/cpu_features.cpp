// Compiled on x86-64 only.
#include "cpu/cpu_features.h"

#include <cpuid.h>

namespace tqs {
namespace {

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
    Registers r;
    // Fails on a leaf the processor does not have; the zeros then say "no feature".
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

// XCR0: which register state the operating system saves on a context switch. A processor may have AVX-512 while the
// system (or a virtual machine) does not save its registers; using it would then trap or lose data.
unsigned saved_state() {
    constexpr unsigned osxsave = 1u << 27;
    if (!(cpuid(1).ecx & osxsave)) return 0;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool all(unsigned value, unsigned mask) {
    return (value & mask) == mask;
}

}  // namespace

bool has_avx2_fma() {
    constexpr unsigned fma_avx = 1u << 12 | 1u << 28;  // leaf 1, ecx
    constexpr unsigned avx2 = 1u << 5;                 // leaf 7, ebx
    constexpr unsigned sse_avx_state = 0x06;
    return all(saved_state(), sse_avx_state) && all(cpuid(1).ecx, fma_avx) && all(cpuid(7).ebx, avx2);
}

bool has_avx512() {
    constexpr unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // leaf 7, ebx
    constexpr unsigned mask_and_zmm_state = 0xE0;
    constexpr unsigned vnni = 1u << 11;  // leaf 7, ecx: every processor with AVX-512 but the first generation (2017)
    const Registers features = cpuid(7);
    return has_avx2_fma() && all(saved_state(), mask_and_zmm_state) && all(features.ebx, f_dq_bw_vl) &&
           all(features.ecx, vnni);
}

bool has_avx512_bfloat16() {
    constexpr unsigned bfloat16 = 1u << 5;                                   // leaf 7, subleaf 1, eax
    static const bool has = has_avx512() && all(cpuid(7, 1).eax, bfloat16);  // cpuid is slow in a virtual machine
    return has;
}

}  // namespace tqs
