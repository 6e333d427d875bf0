#include "cpu/panel/prepack.h"

#include "cpu/avx2/kernels.h"
#include "cpu/avx2/vector.h"

namespace tqs::avx2 {

std::int64_t prepacked_bytes(const PackedView& weight) {
    return panel::prepacked_bytes<Vector>(weight);
}

constinit const PrepackKernel kPrepack[kFormats] = {
    panel::prepack<Vector, 2>,
    panel::prepack<Vector, 3>,
    panel::prepack<Vector, 4>,
    panel::prepack<Vector, 8>,
};

}  // namespace tqs::avx2
