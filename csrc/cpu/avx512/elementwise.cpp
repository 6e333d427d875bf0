#include "cpu/panel/elementwise.h"

#include "cpu/avx512/kernels.h"
#include "cpu/avx512/wide.h"

namespace tqs::avx512 {

constinit const ElementwiseKernels kElementwise[kPrecisions] = {
    {panel::elementwise_scratch<Wide<float>>, panel::elementwise<Wide<float>>},
    {panel::elementwise_scratch<Wide<double>>, panel::elementwise<Wide<double>>},
};

}  // namespace tqs::avx512
