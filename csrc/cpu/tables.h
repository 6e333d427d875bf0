// One table per ISA folder. They are constant-initialised: building one must not run a single instruction of its ISA.
#pragma once

#include "backend/kernel_table.h"

namespace tqs {

extern const KernelTable scalar_table;
extern const KernelTable avx2_table;
extern const KernelTable avx512_table;
extern const KernelTable neon_table;

}  // namespace tqs
