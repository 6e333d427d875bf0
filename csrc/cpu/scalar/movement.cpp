#include "cpu/panel/movement.h"

#include "cpu/scalar/kernels.h"
#include "cpu/scalar/wide.h"

namespace tqs::scalar {

constinit const MovementKernels kMovement[kPrecisions] = {
    {panel::copy<Wide<float>>, panel::remap<Wide<float>>, panel::gather<Wide<float>>},
    {panel::copy<Wide<double>>, panel::remap<Wide<double>>, panel::gather<Wide<double>>},
};

}  // namespace tqs::scalar
