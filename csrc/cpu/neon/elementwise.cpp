#include "cpu/panel/elementwise.h"

#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"

namespace tqs::neon {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {
    {panel::elementwise_scratch<Wide<float>>, panel::elementwise<Wide<float>>},
    {panel::elementwise_scratch<Wide<double>>, panel::elementwise<Wide<double>>},
};

}  // namespace tqs::neon
