// The order in which threads and blocks run: ascending, descending, or an adversary's, who lets the thread of the
// highest priority run (Burckhardt, Kothari, Musuvathi and Nagarakatte, "A randomized scheduler with probabilistic
// guarantees of finding bugs", 2010). All that is random in the emulator comes from here, and begins with a seed.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "fibers.h"

namespace emulator {

class Schedule {
  public:
    // As the environment's TQS_EMULATOR_SEED says.
    Schedule();

    // 0: in ascending order.
    void begin(std::uint64_t seed);
    bool adversarial() const;

    // Of threads that have not begun: warps in a random order, lanes of each, and somebody or nobody who comes last: a
    // warp, a thread, or one thread of eight.
    void set_priorities(const std::vector<Fiber*>& threads);
    // Now and then, of the thread that runs.
    void change_priority(Fiber* thread);
    // Who runs next: the first one, or of an adversary the one of the highest priority.
    Fiber* take(std::deque<Fiber*>& ready);
    // First blocks of the clusters of a grid.
    std::vector<Index> clusters(Index grid, unsigned cluster);
    // Where a launch finds its shared memory: promised is a multiple of 128. Of 1024 it is every other time, as on a
    // GPU that keeps 1 KiB for itself: what begins there has no gap before stages of that alignment, in which a fault
    // could go unseen.
    std::uint32_t shared_begin();

  private:
    std::uint64_t random();

    bool adversarial_ = false;
    std::uint64_t state_ = 0;
};

extern Schedule schedule;

}  // namespace emulator
