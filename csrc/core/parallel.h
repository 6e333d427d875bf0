// A small thread pool. Workers that find nothing to do yield the processor for a fraction of a millisecond, then sleep:
// torch's own threads share the cores.
//
// The caller works too, so a job finishes even when every worker is busy with another Python thread's job, and even
// when no worker could be started. After fork() the child starts with a fresh pool. A job started from inside a job
// runs on its own thread alone.
#pragma once

#include <cstdint>
#include <functional>

namespace tqs {

// Threads used when a caller gives 0: TQS_THREADS where set, else the processors this process may run on.
int default_threads();

// As many of `threads` (0: default_threads()) as find `grain` of the `work` each, and one at least: below that, waking
// a thread costs more than it saves.
int worthwhile_threads(std::int64_t work, std::int64_t grain, int threads);

// Cuts [0, units) into at most `threads` contiguous pieces and runs body(begin, end) on each, in any order.
// The pieces depend on the thread count, so body's result for a unit must not depend on its piece.
// threads = 0 means default_threads(). The first exception thrown by a piece is rethrown here, after all have ended.
// While the caller has nothing left to do but wait for the others, it calls `waiting` every few milliseconds.
void parallel_for(std::int64_t units, int threads, const std::function<void(std::int64_t, std::int64_t)>& body,
                  const std::function<void()>& waiting = {});

}  // namespace tqs
