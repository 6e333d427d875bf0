// Compiled on AArch64 only.
#include "cpu/cpu_features.h"

#ifdef __linux__
#include <sys/auxv.h>
#endif

namespace tqs {

bool has_neon_dot_products() {
#ifdef __linux__
    constexpr unsigned long dot_products = 1ul << 20;  // HWCAP_ASIMDDP, which old headers lack
    static const bool has = (getauxval(AT_HWCAP) & dot_products) != 0;
    return has;
#elif defined(__APPLE__)
    return true;  // from the M1 on
#else
    return false;  // not known
#endif
}

}  // namespace tqs
