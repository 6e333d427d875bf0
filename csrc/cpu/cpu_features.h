// What the processor and the operating system run. x86-64 only; compiled without ISA flags.
#pragma once

namespace tqs {

bool has_avx2_fma();
bool has_avx512();  // F, BW, VL and DQ, on top of AVX2 and FMA

}  // namespace tqs
