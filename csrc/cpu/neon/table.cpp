#include "cpu/cpu_features.h"
#include "cpu/neon/kernels.h"
#include "cpu/neon/vector.h"
#include "cpu/tables.h"

namespace tqs {

constinit const KernelTable neon_table = {
    .isa = Isa::neon,
    .panel_columns = neon::Vector::kPanel,
    .layout = 1,
    .supported = has_neon_dot_products,
    .scratch_bytes = neon::scratch_bytes,
    .has_pairs = nullptr,
    .prepacked_bytes = neon::prepacked_bytes,
    .quantize = neon::kQuantize,
    .dequantize = neon::kDequantize,
    .activation_bytes = neon::kActivationBytes,
    .activations = neon::kActivations,
    .qgemm = neon::kQgemm,
    .prepack = neon::kPrepack,
    .gates = neon::kGates,
    .program =
        {
            .products = neon::kProducts,
            .attention = neon::kAttention,
            .elementwise = neon::kElementwise,
            .rows = neon::kRows,
            .movement = neon::kMovement,
        },
};

}  // namespace tqs
