// What the hardware does behind the threads' backs: copies to shared memory, products of warpgroups, and the barriers
// in shared memory that count bulk copies. It may happen at any moment between the call and the wait, so here it
// happens at both ends: the target of a copy holds 0xFF from the call on and the data from the wait on; a product reads
// registers and shared memory at the call and again, with the same result, when somebody waits for it, which is when a
// phase of a barrier ends, too.
#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "fibers.h"

namespace emulator {
namespace {

struct Bulk {
    unsigned char* target;
    const unsigned char* source;
    std::int64_t bytes;
};

struct PhaseBarrier {
    const Fiber* maker = nullptr;
    bool published = false;
    int arrivals = 0, missing = 0, phase = 0;
    std::int64_t expected = 0, issued = 0;  // bytes
    std::vector<Bulk> copies;
    std::vector<Fiber*> waiting;
};

std::map<void*, PhaseBarrier> barriers;  // of the cluster that runs

PhaseBarrier& barrier_at(void* address) {
    const auto found = barriers.find(address);
    if (found == barriers.end()) fail("a barrier that was not made");
    return found->second;
}

void require_published(const PhaseBarrier& barrier) {
    if (!barrier.published) fail("a barrier that was not published");
}

// Ends the phase if it can end: copies write now.
bool end_phase(PhaseBarrier& barrier) {
    if (barrier.missing > 0 || barrier.issued < barrier.expected) return false;
    if (barrier.issued > barrier.expected) fail("more bytes copied than announced");
    for (const Bulk& copy : barrier.copies) std::memcpy(copy.target, copy.source, static_cast<std::size_t>(copy.bytes));
    barrier.copies.clear();
    barrier.expected = barrier.issued = 0;
    barrier.missing = barrier.arrivals;
    barrier.phase = 1 - barrier.phase;
    for (Fiber* fiber : barrier.waiting) wake(fiber);
    barrier.waiting.clear();
    return true;
}

Deferred& deferred() {
    return here().deferred[static_cast<std::size_t>(running().number / kWarpgroup)];
}

std::vector<bool>::reference hidden_at(const unsigned char* shared) {
    return here().hidden.at(static_cast<std::size_t>(shared - here().shared) / 16);
}

}  // namespace

// ------------------------------------------------------------------------------------------------ copies of a thread

void issue_copy(const Copy& copy) {
    for (const void* address : {static_cast<const void*>(copy.target), static_cast<const void*>(copy.source)}) {
        if (reinterpret_cast<std::uintptr_t>(address) % copy.bytes != 0) fail("copy_async: address not aligned");
    }
    std::memset(copy.target, 0xFF, copy.bytes);
    hidden_at(copy.target) = true;
    running().issued.push_back(copy);
}

void commit_copies() {
    may_yield();
    running().committed.push_back(std::move(running().issued));
    running().issued.clear();
}

void wait_copies(int pending) {
    auto& groups = running().committed;
    while (static_cast<int>(groups.size()) > pending) {
        for (const Copy& copy : groups.front()) {
            if (copy.source) {
                std::memcpy(copy.target, copy.source, copy.bytes);
            } else {
                std::memset(copy.target, 0, copy.bytes);
            }
            running().landed.push_back(copy.target);
        }
        groups.pop_front();
    }
}

void show_copies() {
    for (const unsigned char* target : running().landed) hidden_at(target) = false;
    running().landed.clear();
}

void require_shown(const unsigned char* shared) {
    if (hidden_at(shared)) fail("a product reads a copy that was not shown to it");
}

// ------------------------------------------------------------------------------------------------ products

void fence_deferred() {
    deferred().fenced = true;
}

void defer(std::function<void()> work) {
    if (!deferred().fenced) fail("a product whose registers were not fenced");
    deferred().groups.back().push_back(std::move(work));
}

void commit_deferred() {
    deferred().groups.emplace_back();
}

void wait_deferred(int pending) {
    deferred().fenced = false;
    auto& groups = deferred().groups;
    while (static_cast<int>(groups.size()) - 1 > pending) {
        for (const auto& work : groups.front()) work();
        groups.pop_front();
    }
}

// ------------------------------------------------------------------------------------------------ barriers in memory

void make_barrier(void* barrier, int arrivals) {
    if (reinterpret_cast<std::uintptr_t>(barrier) % 8 != 0) fail("make_barrier: address not aligned to 8");
    PhaseBarrier made;
    made.maker = &running();
    made.arrivals = made.missing = arrivals;
    barriers[barrier] = made;
}

void publish_barriers() {
    for (auto& [address, barrier] : barriers) barrier.published |= barrier.maker == &running();
}

void arrive(void* address, std::int64_t expected_bytes) {
    may_yield();
    PhaseBarrier& barrier = barrier_at(address);
    if (barrier.maker->block != &here()) require_published(barrier);
    if (barrier.missing == 0 && !end_phase(barrier)) fail("more threads arrive than the barrier was made for");
    barrier.expected += expected_bytes;
    --barrier.missing;
    if (!barrier.waiting.empty()) end_phase(barrier);
}

void wait_phase(void* address, int parity) {
    PhaseBarrier& barrier = barrier_at(address);
    if (barrier.phase == parity) end_phase(barrier);
    while (barrier.phase == parity) {
        barrier.waiting.push_back(&running());
        wait_for("wait_phase");
    }
}

void copy_bulk(unsigned char* target, const unsigned char* source, std::int64_t bytes, void* address) {
    require_aligned(target, "copy_bulk");
    require_aligned(source, "copy_bulk");
    if (bytes % 16 != 0) fail("copy_bulk: a multiple of 16 bytes");
    const bool within = std::any_of(cluster().begin(), cluster().end(), [&](const Block& block) {
        return target >= block.shared && target + bytes <= block.shared + shared_memory_bytes();
    });
    if (!within) fail("copy_bulk: outside of shared memory");
    std::memset(target, 0xFF, static_cast<std::size_t>(bytes));
    PhaseBarrier& barrier = barrier_at(address);
    require_published(barrier);
    barrier.copies.push_back({target, source, bytes});
    barrier.issued += bytes;
    if (!barrier.waiting.empty()) end_phase(barrier);
    may_yield();
}

void forget_barriers() {
    barriers.clear();
}

void require_finished() {
    for (const auto& [address, barrier] : barriers) {
        if (!barrier.copies.empty()) fail("a bulk copy that was never waited for");
    }
    for (const Block& block : cluster()) {
        for (const Deferred& products : block.deferred) {
            if (products.groups.size() > 1 || !products.groups.front().empty()) {
                fail("products that were never waited for");
            }
        }
    }
}

}  // namespace emulator
