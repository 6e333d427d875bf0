#include "cpu/panel/movement.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"

namespace tqs::neon {

constinit const MovementKernels kMovement[kPrecisions] = {
    {panel::copy<Wide<float>>, panel::remap<Wide<float>>, panel::gather<Wide<float>>},
    {panel::copy<Wide<double>>, panel::remap<Wide<double>>, panel::gather<Wide<double>>},
};

}  // namespace tqs::neon
