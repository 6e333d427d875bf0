// What the model of plan.h wants to know of a device.
#pragma once

#include "cuda/plan.h"

namespace tqs::cuda {

// Of device memory, in cycles of the multiprocessors: clocks in kHz, 0 where the driver does not say (all the same
// then: a plan wants some figure).
double bytes_per_cycle(int bus_bits, int memory_clock, int clock);

// Asked once per device and process.
Device properties_of(int device);

// Bytes of shared memory that a block may have on the current device.
int shared_limit();

// Whether kernels may be launched before those before them have ended: from 9.0 on, which code for 8.0 does not know,
// and within graphs from drivers of CUDA 12.3 on.
bool launches_overlap(int device);

}  // namespace tqs::cuda
