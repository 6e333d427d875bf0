#include "cpu/neon/kernels.h"
#include "cpu/neon/wide.h"
#include "cpu/panel/normalize.h"
#include "cpu/panel/reduce.h"
#include "cpu/panel/running_extreme.h"
#include "cpu/panel/scan.h"
#include "cpu/panel/softmax.h"
#include "cpu/panel/top_k.h"

namespace tqs::neon {
namespace {

template <class W>
constexpr RowKernels kRowKernels = {
    .reduce_scratch = panel::reduce_scratch<W>,
    .reduce = panel::reduce<W>,
    .softmax_scratch = panel::softmax_scratch<W>,
    .softmax = panel::softmax<W>,
    .normalize_scratch = panel::normalize_scratch<W>,
    .normalize = panel::normalize<W>,
    .scan_scratch = panel::scan_scratch<W>,
    .scan = panel::scan<W>,
    .running_extreme_scratch = panel::running_extreme_scratch<W>,
    .running_extreme = panel::running_extreme<W>,
    .top_k_scratch = panel::top_k_scratch<W>,
    .top_k = panel::top_k<W>,
};

}  // namespace

constinit const RowKernels kRows[kPrecisions] = {kRowKernels<Wide<float>>, kRowKernels<Wide<double>>};

}  // namespace tqs::neon
