// What leaves a tile after a step.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "rollout/tile.h"

namespace tqs {

// The output of a step as [block, C], whatever its rank: a batch of one, then C or block and C.
struct OutputShape {
    std::int64_t block, channels, block_stride, channel_stride;
};

OutputShape output_shape(const Program& program);

// What is wanted of lanes [first, first + lanes) of a tile, for its samples n and values time < T:
//
//     errors [l * error_lane + time * row + n]         mean over channels of ((y - reference) / scale)^2 in float64,
//                                                      infinite where that is not finite
//     outputs [(l * output_lane + time * output_row + n) * C + c]
//
// in memory of this process. reference [(time * row + n) * C + c], null: 0. In a tangent rollout lanes of zero tangent
// have zeros.
struct Wanted {
    std::int64_t first = 0, lanes = 0;
    const void* reference = nullptr;
    const double* scale = nullptr;
    double* errors = nullptr;  // null: not wanted
    std::int64_t error_lane = 0, row = 0;
    void* outputs = nullptr;  // null: not wanted
    std::int64_t output_lane = 0, output_row = 0;
};

// When a step ends: its number, and on a device the clock that counts from step `began`.
struct Moment {
    std::int64_t step;
    const std::int64_t* clock;
    std::int64_t began;
};

class Collector {
  public:
    // `values`: T.
    Collector(const Program& program, Place& place, const Extent& extent, std::int64_t values,
              std::vector<Wanted> wanted);

    void collect(const Operand& output, const Moment& moment);
    // Nothing is where it is wanted before this was called.
    void finish();
    std::int64_t allocated_bytes() const { return allocated_; }

  private:
    // A part of `wanted` on a device.
    struct Placed {
        char *reference, *scale, *errors, *outputs;
        std::int64_t out_lane, out_time;  // rows of channels: in the order in which outputs are wanted
    };

    char* take(std::int64_t bytes);
    void place(const Wanted& wanted);
    void collect_here(const Wanted& wanted, const Operand& output, std::int64_t step) const;

    Place& place_;
    Extent extent_;
    OutputShape shape_;
    std::int64_t item_, values_;
    std::vector<Wanted> wanted_;
    std::vector<Placed> placed_;
    std::vector<PlaceBytes> memory_;
    std::int64_t allocated_ = 0;
};

}  // namespace tqs
