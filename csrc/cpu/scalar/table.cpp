#include "cpu/scalar/kernels.h"
#include "cpu/tables.h"

namespace tqs {

constinit const KernelTable scalar_table = {
    .isa = Isa::scalar,
    .panel_columns = 1,
    .layout = 0,
    .supported = [] { return true; },
    .scratch_bytes = scalar::scratch_bytes,
    .has_pairs = nullptr,
    .prepacked_bytes = scalar::prepacked_bytes,
    .quantize = scalar::kQuantize,
    .dequantize = scalar::kDequantize,
    .activation_bytes = scalar::kActivationBytes,
    .activations = scalar::kActivations,
    .qgemm = scalar::kQgemm,
    .prepack = scalar::kPrepack,
    .gates = scalar::kGates,
    .program =
        {
            .products = scalar::kProducts,
            .attention = scalar::kAttention,
            .elementwise = scalar::kElementwise,
            .rows = scalar::kRows,
            .movement = scalar::kMovement,
        },
};

}  // namespace tqs
