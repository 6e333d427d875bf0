// What the two parts of the emulated CUDA runtime know of each other: runtime.cpp, memory, and streams.cpp. What both
// offer to the rest of the emulator is in emulator.h.
#pragma once

#include <mutex>
#include <string>

struct EmulatedStream;

namespace emulator {

extern std::recursive_mutex runtime_mutex;

// Does all that is enqueued.
void run_all_streams();
// Whether the work of a stream is recorded, not done.
bool is_captured(const EmulatedStream* stream);
// What a thread may not do while it captures a stream: true, and what was recorded is void.
bool spoils_capture();
// Of the last work that failed.
const std::string& failure_of_streams();

// Whether pinned memory can be touched.
void reach_pinned(bool reachable);

}  // namespace emulator
