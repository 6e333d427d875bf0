// What the processor and the operating system run. x86-64 only; compiled without ISA flags.
#pragma once

namespace tqs {

bool has_avx2_fma();
bool has_avx512();  // F, BW, VL, DQ and VNNI, on top of AVX2 and FMA
bool has_avx512_bfloat16();

}  // namespace tqs
