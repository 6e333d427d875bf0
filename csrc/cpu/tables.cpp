// The one list of CPU backends. CMake defines TQS_ISA_<NAME> for each ISA folder it compiles.
#include "cpu/tables.h"

namespace tqs {

std::span<const KernelTable* const> cpu_tables() {
    static constexpr const KernelTable* tables[] = {
        &scalar_table,
#ifdef TQS_ISA_AVX2
        &avx2_table,
#endif
#ifdef TQS_ISA_AVX512
        &avx512_table,
#endif
#ifdef TQS_ISA_NEON
        &neon_table,
#endif
    };
    return tables;
}

}  // namespace tqs
