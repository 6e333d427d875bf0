// The threads of the blocks that run, as the emulator's own files share them: fibers.cpp runs them, the others make
// them wait. (emulator.h is for device code and for those who launch it.)
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator.h"

namespace emulator {

inline constexpr int kWarp = 32, kWarpgroup = 128;

struct Block;

// A thread of a block.
struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    Block* block = nullptr;
    int number = 0;  // in its block
    bool done = false;
    bool acted = false, begun = false;  // asked for its number or for shared memory; called begin_kernel
    const char* waits = nullptr;        // for what, or null
    std::uint64_t priority = 0;         // schedule.h
    std::vector<Copy> issued;           // asynchronous.cpp
    std::deque<std::vector<Copy>> committed;
    std::vector<unsigned char*> landed;        // copies, not shown to products
    std::vector<std::uintptr_t> shared_loads;  // memory.cpp
};

// Threads that wait for each other (meetings.cpp): a warp, a warpgroup, a block or a part of it, a cluster.
struct Group {
    std::vector<Fiber*> members;
    std::vector<void*> brought;  // by member
    const char* tag = nullptr;   // of what those who have arrived called
    int arrived = 0;
};

// Products of a warpgroup that are not yet done (asynchronous.cpp), in groups, the last one open; and whether the
// threads have fenced the registers since they could last touch them.
struct Deferred {
    std::deque<std::vector<std::function<void()>>> groups{1};
    bool fenced = false;
};

struct Block {
    Index index;
    Group threads;
    std::map<int, Group> parts;  // by threads
    std::vector<Group> warps, warpgroups;
    std::vector<Deferred> deferred;  // by warpgroup
    unsigned char* shared = nullptr;
    std::vector<bool> hidden;  // 16 bytes of shared memory each: copied, and not shown to products
};

[[noreturn]] void fail(const std::string& what);

// The thread that runs, its block, the blocks of its cluster, and all their threads.
Fiber& running();
Block& here();
std::vector<Block>& cluster();
Group& cluster_threads();

// The thread that runs waits for `what` until another one wakes it.
void wait_for(const char* what);
void wake(Fiber* fiber);

// Before the threads of a cluster begin, and when all have ended: nothing they began may be unfinished.
void forget_barriers();
void require_finished();
// Of a block whose threads have ended.
void count_bank_conflicts(const Block& block);

}  // namespace emulator
