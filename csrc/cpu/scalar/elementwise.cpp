#include "cpu/panel/elementwise.h"

#include "cpu/scalar/kernels.h"
#include "cpu/scalar/wide.h"

namespace tqs::scalar {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {
    {panel::elementwise_scratch<Wide<float>>, panel::elementwise<Wide<float>>},
    {panel::elementwise_scratch<Wide<double>>, panel::elementwise<Wide<double>>},
};

}  // namespace tqs::scalar
