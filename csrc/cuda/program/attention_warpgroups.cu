#include <algorithm>

#include "cuda/device/attention_warpgroups_tangents.cuh"
#include "cuda/program/attention.h"
#include "cuda/program/attention_warpgroups.h"
#include "cuda/program/launch.cuh"

namespace tqs::cuda {
namespace {

// The tangents left, in groups of `each`.
template <class Element, int depth, int each, bool masked>
void run_groups(TensorArgument& h, std::int64_t groups) {
    using Shape = WarpgroupShape<Element, depth, each, masked>;
    const std::int64_t blocks = (h.a.queries + kBlockQueries - 1) / kBlockQueries * std::int64_t{h.a.heads.count};
    for (std::int64_t done = 0; done < groups; done += kMostGridLanes) {
        const std::int64_t now = std::min(groups - done, kMostGridLanes);
        launch("attention", warpgroup_tangents<Shape>,
               Grid{blocks_of(blocks, "queries"), static_cast<unsigned>(now), 1}, kBlockThreads, Shape::shared_bytes(),
               h);
        h.a.first_lane += now * each;
    }
}

template <class Element, bool masked>
void run(TensorArgument h) {
    if (std::max(h.a.depth, h.a.width) > 64) return run_groups<Element, 128, 1, masked>(h, h.lanes);
    run_groups<Element, 64, 2, masked>(h, h.lanes / 2);
    run_groups<Element, 64, 1, masked>(h, h.lanes % 2);
}

}  // namespace

bool has_attention_warpgroups() {
    return true;
}

void attention_warpgroups_bfloat16(const TensorArgument& h) {
    h.a.masked ? run<Bfloat16, true>(h) : run<Bfloat16, false>(h);
}

void attention_warpgroups_float16(const TensorArgument& h) {
    h.a.masked ? run<Float16, true>(h) : run<Float16, false>(h);
}

}  // namespace tqs::cuda
