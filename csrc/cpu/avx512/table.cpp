#include "cpu/avx512/kernels.h"
#include "cpu/avx512/vector.h"
#include "cpu/cpu_features.h"
#include "cpu/tables.h"

namespace tqs {

constinit const KernelTable avx512_table = {
    .isa = Isa::avx512,
    .panel_columns = avx512::Vector::kPanel,
    .layout = 4,
    .supported = has_avx512,
    .scratch_bytes = avx512::scratch_bytes,
    .has_pairs = has_avx512_bfloat16,
    .prepacked_bytes = avx512::prepacked_bytes,
    .quantize = avx512::kQuantize,
    .dequantize = avx512::kDequantize,
    .activation_bytes = avx512::kActivationBytes,
    .activations = avx512::kActivations,
    .qgemm = avx512::kQgemm,
    .prepack = avx512::kPrepack,
    .gates = avx512::kGates,
    .program =
        {
            .products = avx512::kProducts,
            .attention = avx512::kAttention,
            .elementwise = avx512::kElementwise,
            .rows = avx512::kRows,
            .movement = avx512::kMovement,
        },
};

}  // namespace tqs
