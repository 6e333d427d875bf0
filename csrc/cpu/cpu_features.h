// What the processor and the operating system run, compiled without ISA flags.
#pragma once

namespace tqs {

// x86-64: cpu_features.cpp
bool has_avx2_fma();
bool has_avx512();  // F, BW, VL, DQ and VNNI, on top of AVX2 and FMA
bool has_avx512_bfloat16();

// AArch64: cpu_features_aarch64.cpp
bool has_neon_dot_products();  // FEAT_DotProd: SDOT and UDOT

}  // namespace tqs
