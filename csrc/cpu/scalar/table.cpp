#include "cpu/scalar/kernels.h"
#include "cpu/tables.h"

namespace tqs {

constinit const KernelTable scalar_table = {
    .isa = Isa::scalar,
    .panel_columns = 1,
    .layout = 0,
    .supported = [] { return true; },
    .scratch_bytes = scalar::scratch_bytes,
    .activation_bytes = {scalar::exact_bytes, scalar::int8_bytes},
    .prepacked_bytes = scalar::prepacked_bytes,
    .quantize = scalar::kQuantize,
    .dequantize = scalar::kDequantize,
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
