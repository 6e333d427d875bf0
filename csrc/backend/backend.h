// Which kernels run: the best ISA of this processor, unless TQS_ISA or use_isa says otherwise. One choice per process.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/kernel_table.h"

namespace tqs {

// The table in use. The first call reads TQS_ISA; throws ArgumentError when that is unknown or cannot run here.
const KernelTable& active_table();

// The name of an ISA, or "" to return to the default. Throws ArgumentError when unknown or not available.
void use_isa(std::string_view name);

struct IsaRow {
    Isa isa;
    bool available;
};
std::vector<IsaRow> list_isas();

struct KernelRow {
    std::string op;      // "qgemm_float32", "dequantize", ...
    std::string format;  // "int4"
    std::string isa;     // "avx2", "cuda"
    bool available;
};
// Every kernel compiled in, whether or not it can run here.
std::vector<KernelRow> list_kernels();

}  // namespace tqs
