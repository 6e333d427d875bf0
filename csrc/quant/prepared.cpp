#include "quant/prepared.h"

#include "backend/backend.h"

namespace tqs {

std::unique_ptr<Prepared> prepack(const PackedView& packed) {
    check_packed("prepack", packed);
    const KernelTable& table = active_table();
    auto prepared = std::make_unique<Prepared>(
        Prepared{packed, table.isa, table.layout, allocate_aligned(table.prepacked_bytes(packed))});
    table.prepack[format_index(packed.bits)](packed, prepared->panels.get());
    return prepared;
}

}  // namespace tqs
