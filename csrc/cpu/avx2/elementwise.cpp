#include "cpu/panel/elementwise.h"

#include "cpu/avx2/kernels.h"
#include "cpu/avx2/wide.h"

namespace tqs::avx2 {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {
    {panel::elementwise_scratch<Wide<float>>, panel::elementwise<Wide<float>>},
    {panel::elementwise_scratch<Wide<double>>, panel::elementwise<Wide<double>>},
};

}  // namespace tqs::avx2
