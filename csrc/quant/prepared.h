// A weight rewritten for one ISA. Lives in memory only: the portable form (quant/format.h) is what is stored.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/kernel_table.h"
#include "core/aligned.h"

namespace tqs {

// Owns the rewritten copy and views the portable arrays, which must outlive it.
struct Prepared {
    PackedView weight;
    Isa isa;
    std::uint32_t layout;
    AlignedBytes panels;
};

// For the active ISA.
std::unique_ptr<Prepared> prepack(const PackedView& packed);

}  // namespace tqs
