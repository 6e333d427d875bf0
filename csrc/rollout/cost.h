// What a tile costs, by a model: enough to compare ways of cutting a rollout, not to predict a time.
#pragma once

#include <cstdint>
#include <vector>

#include "rollout/sharing.h"

namespace tqs {

class TileCost {
  public:
    // Of tiles whose lanes differ in the constants `changed` (and from the start in the state leaves `seeded`).
    TileCost(const Program& program, std::vector<int> changed, const std::vector<bool>& seeded, std::int64_t steps);

    // In multiply-adds. `lanes` counts the primal of a tangent rollout.
    double operator()(std::int64_t lanes, std::int64_t samples) const;

  private:
    struct Node {
        double work;   // multiply-adds per lane and sample
        double least;  // lane-samples below which its products are no faster
        double times;  // how often a rollout runs it
        bool shared;   // by all lanes
        bool variant;  // each lane has a product of its own
    };
    std::vector<Node> nodes_;
    double start_;
};

}  // namespace tqs
