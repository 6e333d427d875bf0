#include "cpu/panel/prepack.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/vector.h"

namespace tqs::neon {

std::int64_t prepacked_bytes(const PackedView& weight) {
    return panel::prepacked_bytes<Vector>(weight);
}

constinit const PrepackKernel kPrepack[kFormats] = {
    panel::prepack<Vector, 2>,
    panel::prepack<Vector, 3>,
    panel::prepack<Vector, 4>,
    panel::prepack<Vector, 8>,
};

}  // namespace tqs::neon
