#include "cpu/panel/movement.h"

#include "cpu/avx512/kernels.h"
#include "cpu/avx512/wide.h"

namespace tqs::avx512 {

constinit const MovementKernels kMovement[kPrecisions] = {
    {panel::copy<Wide<float>>, panel::remap<Wide<float>>, panel::gather<Wide<float>>},
    {panel::copy<Wide<double>>, panel::remap<Wide<double>>, panel::gather<Wide<double>>},
};

}  // namespace tqs::avx512
