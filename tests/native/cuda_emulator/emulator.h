// Runs device code on the CPU, one cluster of blocks after the other, for tests: every thread of a block is a fiber,
// and a fiber runs until it needs others. The files of this folder:
//
//   cuda/                             twins of files of csrc/cuda: what the hardware does, and launches
//   fibers, schedule                  which thread runs next
//   meetings, asynchronous, memory    what threads wait for, what happens behind their backs, what addresses are theirs
//   cuda_runtime_api.h                the CUDA runtime
//   runtime, streams                  the device and its memory; streams, events and graphs
//   cublas_lt                         cuBLASLt
//   library, nodes, layers, growth    what tests call, one file per test file; probes: to test the emulator itself
//
// What is checked on the way, with an exception that says where:
//
// - Collectives of a warp and barriers of the block: all their threads must come to the same one.
// - Shared memory and arrays from `allocate` end at a page that may not be touched, vectors are aligned, and 16-byte
//   loads from shared memory are counted where lanes meet in a bank.
// - Shared memory holds 0xFF at the start. An asynchronous copy fills its target with 0xFF when it is issued and writes
//   it only when it is waited for, the earliest and the latest moment that hardware may choose. Products of warpgroups
//   and phases of barriers in shared memory end only when they are waited for, too.
// - Registers of products are fenced before them, asynchronous copies that they read shown to them, and barriers in
//   shared memory published before others see them.
//
// Threads run in ascending or in descending order (`reversed`), or in an adversary's (`emulated_schedule`): warps and
// their lanes have random priorities, some the lowest of all, which now and then change, and of the threads that can
// run that of the highest priority does, also where one hands something on. Lanes of a warp are as far apart as its
// barriers allow, some are held back as long as any other can run, and blocks run in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

struct EmulatedStream;

// The order of threads and blocks from now on: ascending for seed 0, which the environment's TQS_EMULATOR_SEED
// replaces, else the adversary's that the seed begins. To be found in the library that holds the emulator.
extern "C" __attribute__((visibility("default"))) void emulated_schedule(std::uint64_t seed);

namespace emulator {

// ------------------------------------------------------------------------------------------------ launches

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

extern bool reversed;  // else as emulated_schedule said
// The device: shared memory of a block, in bytes, which no launch may exceed, and major compute capability. An H200,
// unless a test or the environment's TQS_EMULATED_DEVICE says otherwise: 8.0, 8.6 (and 8.9, which has as much), 9.0.
extern std::size_t shared_limit;
extern int capability;

// Calls `kernel` for every thread of every block; `cluster` neighbouring blocks along x run at once. Throws
// std::runtime_error.
void launch(Index grid, int threads, std::size_t shared_bytes, const std::function<void()>& kernel, int cluster = 1);

// Work of a stream of the emulated runtime (streams.cpp): enqueued, or recorded where the stream is being captured; of
// no stream, done now.
void submit(EmulatedStream* stream, const std::function<void()>& work);
void submit_kernel(EmulatedStream* stream, const std::function<void()>& kernel);

// ------------------------------------------------------------------------------------------------ the thread that runs

extern Index block_index, grid_size;
Index thread_index();
// Of programs' kernels: `begin_kernel` fails where this thread has done something before, `require_begun` where it was
// not called.
void begin_kernel();
void require_begun();
int cluster_rank();
unsigned char* shared_memory();
std::size_t shared_memory_bytes();
// The address of shared_memory() among those of shared memory, which descriptors of products hold.
std::uint32_t shared_begin();
// What lies at `shared` of this block, in block `rank` of the cluster.
void* there(void* shared, int rank);
// Where an adversary may let others run first.
void may_yield();

// ------------------------------------------------------------------------------------------------ meetings
// All lanes of the warp (or threads of the block) call with the same tag; the last to come calls `act` with what each
// brought, by lane. `act` writes the results there.

using Act = void (*)(void* const* brought, int count);
void meet_warp(const char* tag, void* brought, Act act);
void meet_block(const char* tag);
// Of the first `threads` threads of the block.
void meet_part(const char* tag, int threads);
// Of all blocks of the cluster.
void meet_cluster(const char* tag);
// Of the four warps from a multiple of four on.
void meet_warpgroup(const char* tag, void* brought, Act act);

// ------------------------------------------------------------------------------------------------ asynchronous work

// Copies of this thread to shared memory, in groups.
struct Copy {
    unsigned char* target;
    const unsigned char* source;  // null: zeros
    std::size_t bytes = 16;
};
void issue_copy(const Copy& copy);
void commit_copies();
void wait_copies(int pending);
// The copies that this thread has waited for, to products of warpgroups; and what fails where that was forgotten.
void show_copies();
void require_shown(const unsigned char* shared);

// Work of this thread's warpgroup that is done when it is waited for, in groups; called by one thread. Before it, and
// again after every wait, come fences: the registers have been the threads' own.
void fence_deferred();
void defer(std::function<void()> work);
void commit_deferred();
void wait_deferred(int pending);

// Barriers in shared memory, and bulk copies that they count. Copies and other blocks see only barriers that the thread
// which made them has published.
void make_barrier(void* barrier, int arrivals);
void publish_barriers();
void arrive(void* barrier, std::int64_t expected_bytes);
void wait_phase(void* barrier, int parity);
void copy_bulk(unsigned char* target, const unsigned char* source, std::int64_t bytes, void* barrier);

// ------------------------------------------------------------------------------------------------ memory

// Memory whose end is the end of a page, after which no access is allowed. Filled with 0xFF.
void* allocate(std::size_t bytes);
void release(void* memory, std::size_t bytes);
// Of the emulated runtime, now.
std::size_t allocated_bytes();

void require_aligned(const void* address, const char* what);
// Notes a 16-byte load from shared memory; fails where it is not aligned.
void note_shared_load(const unsigned char* address);
// Extra shared-memory passes of all launches since the last call: for every quarter of a warp, how often more than one
// of its 16-byte loads fell into the same four banks.
std::int64_t take_bank_conflicts();

}  // namespace emulator
