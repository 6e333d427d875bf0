#include "cpu/avx2/kernels.h"
#include "cpu/avx2/vector.h"
#include "cpu/cpu_features.h"
#include "cpu/tables.h"

namespace tqs {

constinit const KernelTable avx2_table = {
    .isa = Isa::avx2,
    .panel_columns = avx2::Vector::kPanel,
    .layout = 6,
    .supported = has_avx2_fma,
    .scratch_bytes = avx2::scratch_bytes,
    .has_pairs = nullptr,
    .prepacked_bytes = avx2::prepacked_bytes,
    .quantize = avx2::kQuantize,
    .dequantize = avx2::kDequantize,
    .activation_bytes = avx2::kActivationBytes,
    .activations = avx2::kActivations,
    .qgemm = avx2::kQgemm,
    .prepack = avx2::kPrepack,
    .gates = avx2::kGates,
    .program =
        {
            .products = avx2::kProducts,
            .attention = avx2::kAttention,
            .elementwise = avx2::kElementwise,
            .rows = avx2::kRows,
            .movement = avx2::kMovement,
        },
};

}  // namespace tqs
