#include "emulator.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>

namespace emulator {
namespace {

constexpr int kWarp = 32, kWarpgroup = 128;
constexpr std::size_t kStack = 256 << 10;

std::size_t page_size() {
    static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

std::size_t mapped_bytes(std::size_t bytes) {
    return (bytes + page_size() - 1) / page_size() * page_size();
}

// Threads that wait for each other: a warp, or the block.
struct Group {
    std::vector<Fiber*> members;
    std::vector<void*> brought;
    const char* tag = nullptr;
    int arrived = 0;
};

// Groups of work not yet done, the last one open.
struct Deferred {
    std::deque<std::vector<std::function<void()>>> groups{1};
};

struct Block {
    Index index;
    Group threads;
    std::map<int, Group> parts;  // by threads
    std::vector<Group> warps, warpgroups;
    std::vector<Deferred> deferred;  // by warpgroup
    unsigned char* shared = nullptr;
};

}  // namespace

struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    Block* block = nullptr;
    int number = 0;  // in its block
    bool done = false;
    const char* waits = nullptr;
    std::uint64_t priority = 0;
    std::vector<Copy> issued;
    std::deque<std::vector<Copy>> committed;
    std::vector<std::uintptr_t> shared_loads;
};

Index block_index, grid_size;
bool reversed = false;
std::size_t shared_limit = 232448;

namespace {

struct Bulk {
    unsigned char* target;
    const unsigned char* source;
    std::int64_t bytes;
};

struct PhaseBarrier {
    int arrivals = 0, missing = 0, phase = 0;
    std::int64_t expected = 0, issued = 0;  // bytes
    std::vector<Bulk> copies;
    std::vector<Fiber*> waiting;
};

struct State {
    const std::function<void()>* kernel = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::deque<Fiber*> ready;
    std::vector<Block> cluster;  // the blocks that run
    Group threads;               // of all of them
    std::map<void*, PhaseBarrier> barriers;
    std::size_t shared_bytes = 0;
    Fiber* running = nullptr;
    ucontext_t main;
    std::string error;
};
State state;
std::int64_t bank_conflicts = 0;

// Who runs next. In order threads take turns; the adversary lets the one of the highest priority run.
class Schedule {
  public:
    Schedule() {
        const char* seed = std::getenv("TQS_EMULATOR_SEED");
        begin(seed ? std::strtoull(seed, nullptr, 10) : 0);
    }

    void begin(std::uint64_t seed) {
        adversarial_ = seed != 0;
        state_ = seed;
    }
    bool adversarial() const { return adversarial_ && !reversed; }
    bool once_in(std::uint64_t count) { return adversarial() && random() % count == 0; }

    // Of threads that have not begun: warps in a random order, lanes of each, and somebody or nobody who comes last: a
    // warp, a thread, or one thread of eight.
    void set_priorities(const std::vector<Fiber*>& threads) {
        if (!adversarial()) return;
        const std::size_t warp_count = threads.size() / kWarp;
        const std::uint64_t kind = random() % 4, thread = random() % threads.size(), warp = random() % warp_count;
        std::vector<std::uint64_t> warps(warp_count);
        for (std::uint64_t& each : warps) each = random() >> 33;
        for (std::size_t i = 0; i < threads.size(); ++i) {
            bool last = false;
            if (kind == 0) last = i / kWarp == warp;
            if (kind == 1) last = i == thread;
            if (kind == 2) last = random() % 8 == 0;
            threads[i]->priority = std::uint64_t{!last} << 63 | warps[i / kWarp] << 32 | random() >> 32;
        }
    }

    void change(Fiber* thread) {
        if (once_in(64)) thread->priority = random();
    }

    Fiber* take(std::deque<Fiber*>& ready) {
        if (adversarial()) {
            const auto first = std::max_element(
                ready.begin(), ready.end(), [](const Fiber* a, const Fiber* b) { return a->priority < b->priority; });
            std::swap(*first, ready.front());
        }
        Fiber* next = ready.front();
        ready.pop_front();
        return next;
    }

    // First blocks of the clusters of a grid.
    std::vector<Index> clusters(Index grid, unsigned cluster) {
        std::vector<Index> order;
        order.reserve(std::size_t{grid.x} * grid.y * grid.z / cluster);
        for (unsigned z = 0; z < grid.z; ++z) {
            for (unsigned y = 0; y < grid.y; ++y) {
                for (unsigned x = 0; x < grid.x; x += cluster) order.push_back({x, y, z});
            }
        }
        for (std::size_t i = order.size(); adversarial() && i > 1; --i) std::swap(order[i - 1], order[random() % i]);
        return order;
    }

  private:
    // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
    std::uint64_t random() {
        std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        return z ^ z >> 31;
    }

    bool adversarial_ = false;
    std::uint64_t state_ = 0;
};
Schedule schedule;

[[noreturn]] void fail(const std::string& what) {
    throw std::runtime_error(what);
}

std::string place(const Fiber* fiber) {
    if (!fiber) return "the launch";
    const Index& block = fiber->block->index;
    return "thread " + std::to_string(fiber->number) + " of block (" + std::to_string(block.x) + ", " +
           std::to_string(block.y) + ", " + std::to_string(block.z) + ")";
}

Block& here() {
    return *state.running->block;
}

// Before control goes to `next`.
void choose(Fiber* next) {
    state.running = next;
    block_index = next->block->index;
}

void leave_to_next() {
    Fiber* me = state.running;
    if (state.ready.empty()) {
        swapcontext(&me->context, &state.main);
        return;
    }
    Fiber* next = schedule.take(state.ready);
    if (next == me) return;
    choose(next);
    swapcontext(&me->context, &next->context);
}

void run_fiber() {
    try {
        (*state.kernel)();
    } catch (const std::exception& error) {
        if (state.error.empty()) state.error = place(state.running) + ": " + error.what();
    }
    state.running->done = true;
    if (!state.error.empty()) setcontext(&state.main);
    if (state.ready.empty()) setcontext(&state.main);
    Fiber* next = schedule.take(state.ready);
    choose(next);
    setcontext(&next->context);
}

void meet(Group& group, int position, const char* tag, void* brought, Act act) {
    Fiber* me = state.running;
    if (group.arrived == 0) group.tag = tag;
    if (std::strcmp(group.tag, tag) != 0) {
        fail(std::string("divergence: came to ") + tag + " while others wait at " + group.tag);
    }
    group.brought[static_cast<std::size_t>(position)] = brought;
    if (++group.arrived < static_cast<int>(group.members.size())) {
        me->waits = tag;
        leave_to_next();
        return;
    }
    if (act) act(group.brought.data(), group.arrived);
    group.arrived = 0;
    for (Fiber* member : group.members) {
        member->waits = nullptr;
        if (member != me) state.ready.push_back(member);
    }
    may_yield();
}

void on_fault(int, siginfo_t* info, void*) {
    state.error = place(state.running) + ": access outside of every array, at address " +
                  std::to_string(reinterpret_cast<std::uintptr_t>(info->si_addr));
    setcontext(&state.main);
}

// Turns faults of device code into errors while it lives.
class FaultScope {
  public:
    FaultScope() : stack_(new unsigned char[64 << 10]) {
        stack_t stack{};
        stack.ss_sp = stack_.get();
        stack.ss_size = 64 << 10;
        sigaltstack(&stack, &old_stack_);
        struct sigaction action{};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &old_segv_);
        sigaction(SIGBUS, &action, &old_bus_);
    }
    ~FaultScope() {
        sigaction(SIGSEGV, &old_segv_, nullptr);
        sigaction(SIGBUS, &old_bus_, nullptr);
        sigaltstack(&old_stack_, nullptr);
    }
    FaultScope(const FaultScope&) = delete;
    FaultScope& operator=(const FaultScope&) = delete;

  private:
    std::unique_ptr<unsigned char[]> stack_;
    stack_t old_stack_{};
    struct sigaction old_segv_{}, old_bus_{};
};

void count_bank_conflicts(const Block& block) {
    for (const Group& warp : block.warps) {
        const std::size_t loads = warp.members.front()->shared_loads.size();
        for (const Fiber* lane : warp.members) {
            if (lane->shared_loads.size() != loads) fail("lanes of a warp load different numbers of shared vectors");
        }
        for (std::size_t load = 0; load < loads; ++load) {
            for (int quarter = 0; quarter < kWarp / 8; ++quarter) {
                std::vector<std::uintptr_t> seen[8];
                for (int i = 0; i < 8; ++i) {
                    const std::uintptr_t vector =
                        warp.members[static_cast<std::size_t>(8 * quarter + i)]->shared_loads[load] / 16;
                    auto& bank = seen[vector % 8];
                    if (std::find(bank.begin(), bank.end(), vector) == bank.end()) bank.push_back(vector);
                }
                for (const auto& bank : seen) bank_conflicts += bank.empty() ? 0 : static_cast<int>(bank.size()) - 1;
            }
        }
    }
}

Fiber& fiber_of(std::size_t number) {
    if (state.fibers.size() <= number) {
        state.fibers.push_back(std::make_unique<Fiber>());
        state.fibers.back()->stack = std::make_unique<unsigned char[]>(kStack);
    }
    Fiber& fiber = *state.fibers[number];
    fiber.done = false;
    fiber.waits = nullptr;
    fiber.issued.clear();
    fiber.committed.clear();
    fiber.shared_loads.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    return fiber;
}

void make_threads(Block& block, int threads) {
    block.warps.assign(static_cast<std::size_t>(threads / kWarp), Group{});
    block.warpgroups.assign(static_cast<std::size_t>((threads + kWarpgroup - 1) / kWarpgroup), Group{});
    block.deferred.assign(block.warpgroups.size(), Deferred{});
    for (int number = 0; number < threads; ++number) {
        Fiber& fiber = fiber_of(state.threads.members.size());
        fiber.block = &block;
        fiber.number = number;
        block.warps[static_cast<std::size_t>(number / kWarp)].members.push_back(&fiber);
        block.warpgroups[static_cast<std::size_t>(number / kWarpgroup)].members.push_back(&fiber);
        block.threads.members.push_back(&fiber);
        state.threads.members.push_back(&fiber);
        if (reversed) {
            state.ready.push_front(&fiber);
        } else {
            state.ready.push_back(&fiber);
        }
    }
    for (Group& warp : block.warps) warp.brought.resize(kWarp);
    for (Group& warpgroup : block.warpgroups) warpgroup.brought.resize(kWarpgroup);
    block.threads.brought.resize(block.threads.members.size());
}

void run_cluster(int threads) {
    state.ready.clear();
    state.error.clear();
    state.barriers.clear();
    state.threads = Group{};
    for (Block& block : state.cluster) make_threads(block, threads);
    state.threads.brought.resize(state.threads.members.size());

    schedule.set_priorities(state.threads.members);
    choose(schedule.take(state.ready));
    swapcontext(&state.main, &state.running->context);  // back when nothing can run
    if (!state.error.empty()) fail(state.error);
    for (const Fiber* fiber : state.threads.members) {
        if (!fiber->done) {
            fail(place(fiber) + ": divergence: waits at " + (fiber->waits ? fiber->waits : "nothing") +
                 " for threads that never come");
        }
    }
    for (const auto& [address, barrier] : state.barriers) {
        if (!barrier.copies.empty()) fail("a bulk copy that was never waited for");
    }
    for (const Block& block : state.cluster) {
        for (const Deferred& deferred : block.deferred) {
            if (deferred.groups.size() > 1 || !deferred.groups.front().empty()) {
                fail("products that were never waited for");
            }
        }
        count_bank_conflicts(block);
    }
}

PhaseBarrier& barrier_at(void* address) {
    const auto found = state.barriers.find(address);
    if (found == state.barriers.end()) fail("a barrier that was not made");
    return found->second;
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
    for (Fiber* fiber : barrier.waiting) {
        fiber->waits = nullptr;
        state.ready.push_back(fiber);
    }
    barrier.waiting.clear();
    return true;
}

}  // namespace

void launch(Index grid, int threads, std::size_t shared_bytes, const std::function<void()>& kernel, int cluster) {
    if (threads % kWarp != 0) fail("a block is whole warps");
    if (shared_bytes % 128 != 0) fail("shared memory is a multiple of 128 bytes");
    if (grid.x % static_cast<unsigned>(cluster) != 0) fail("a grid is whole clusters");
    if (shared_bytes > shared_limit) fail("a block asks for more shared memory than the device has");
    state.kernel = &kernel;
    grid_size = grid;
    state.shared_bytes = shared_bytes;
    std::vector<unsigned char*> shared(static_cast<std::size_t>(cluster));
    for (unsigned char*& memory : shared) {
        memory = shared_bytes ? static_cast<unsigned char*>(allocate(shared_bytes)) : nullptr;
    }
    std::string error;
    {
        const FaultScope faults;
        for (const Index& first : schedule.clusters(grid, static_cast<unsigned>(cluster))) {
            state.cluster.assign(shared.size(), Block{});
            for (std::size_t rank = 0; rank < shared.size(); ++rank) {
                state.cluster[rank].index = {first.x + static_cast<unsigned>(rank), first.y, first.z};
                state.cluster[rank].shared = shared[rank];
                if (shared[rank]) std::memset(shared[rank], 0xFF, shared_bytes);
            }
            try {
                run_cluster(threads);
            } catch (const std::exception& problem) {
                error = problem.what();
                break;
            }
        }
    }
    for (unsigned char* memory : shared) {
        if (memory) release(memory, shared_bytes);
    }
    if (!error.empty()) fail(error);
}

Index thread_index() {
    return {static_cast<unsigned>(state.running->number), 0, 0};
}

unsigned char* shared_memory() {
    return here().shared;
}

int cluster_rank() {
    return static_cast<int>(&here() - state.cluster.data());
}

void* there(void* shared, int rank) {
    if (rank >= static_cast<int>(state.cluster.size())) fail("a block that the cluster does not have");
    const Block& other = state.cluster[static_cast<std::size_t>(rank)];
    const std::vector<Fiber*>& threads = other.threads.members;
    if (std::all_of(threads.begin(), threads.end(), [](const Fiber* fiber) { return fiber->done; })) {
        fail("the shared memory of a block that has ended");
    }
    return other.shared + (static_cast<unsigned char*>(shared) - here().shared);
}

std::size_t shared_memory_bytes() {
    return state.shared_bytes;
}

void may_yield() {
    if (!schedule.adversarial() || state.ready.empty()) return;
    schedule.change(state.running);
    state.ready.push_back(state.running);
    leave_to_next();
}

void require_aligned(const void* address, const char* what) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) fail(std::string(what) + ": address not aligned to 16");
}

void issue_copy(const Copy& copy) {
    for (const void* address : {static_cast<const void*>(copy.target), static_cast<const void*>(copy.source)}) {
        if (reinterpret_cast<std::uintptr_t>(address) % copy.bytes != 0) fail("copy_async: address not aligned");
    }
    std::memset(copy.target, 0xFF, copy.bytes);
    state.running->issued.push_back(copy);
}

void commit_copies() {
    may_yield();
    state.running->committed.push_back(std::move(state.running->issued));
    state.running->issued.clear();
}

void wait_copies(int pending) {
    auto& groups = state.running->committed;
    while (static_cast<int>(groups.size()) > pending) {
        for (const Copy& copy : groups.front()) {
            if (copy.source) {
                std::memcpy(copy.target, copy.source, copy.bytes);
            } else {
                std::memset(copy.target, 0, copy.bytes);
            }
        }
        groups.pop_front();
    }
}

void note_shared_load(const unsigned char* address) {
    may_yield();
    require_aligned(address, "load_from_shared");
    state.running->shared_loads.push_back(reinterpret_cast<std::uintptr_t>(address));
}

void meet_warp(const char* tag, void* brought, Act act) {
    const int number = state.running->number;
    meet(here().warps[static_cast<std::size_t>(number / kWarp)], number % kWarp, tag, brought, act);
}

void meet_block(const char* tag) {
    meet(here().threads, state.running->number, tag, nullptr, nullptr);
}

void meet_part(const char* tag, int threads) {
    const int number = state.running->number;
    if (number >= threads) fail(std::string(tag) + ": a thread that is not of the part");
    Group& part = here().parts[threads];
    if (part.members.empty()) {
        const std::vector<Fiber*>& all = here().threads.members;
        part.members.assign(all.begin(), all.begin() + threads);
        part.brought.resize(part.members.size());
    }
    meet(part, number, tag, nullptr, nullptr);
}

void meet_cluster(const char* tag) {
    const auto number = cluster_rank() * static_cast<int>(here().threads.members.size()) + state.running->number;
    meet(state.threads, number, tag, nullptr, nullptr);
}

void meet_warpgroup(const char* tag, void* brought, Act act) {
    const int number = state.running->number;
    meet(here().warpgroups[static_cast<std::size_t>(number / kWarpgroup)], number % kWarpgroup, tag, brought, act);
}

void defer(std::function<void()> work) {
    here().deferred[static_cast<std::size_t>(state.running->number / kWarpgroup)].groups.back().push_back(
        std::move(work));
}

void commit_deferred() {
    here().deferred[static_cast<std::size_t>(state.running->number / kWarpgroup)].groups.emplace_back();
}

void wait_deferred(int pending) {
    auto& groups = here().deferred[static_cast<std::size_t>(state.running->number / kWarpgroup)].groups;
    while (static_cast<int>(groups.size()) - 1 > pending) {
        for (const auto& work : groups.front()) work();
        groups.pop_front();
    }
}

void make_barrier(void* barrier, int arrivals) {
    if (reinterpret_cast<std::uintptr_t>(barrier) % 8 != 0) fail("make_barrier: address not aligned to 8");
    PhaseBarrier made;
    made.arrivals = made.missing = arrivals;
    state.barriers[barrier] = made;
}

void arrive(void* address, std::int64_t expected_bytes) {
    may_yield();
    PhaseBarrier& barrier = barrier_at(address);
    if (barrier.missing == 0 && !end_phase(barrier)) fail("more threads arrive than the barrier was made for");
    barrier.expected += expected_bytes;
    --barrier.missing;
    if (!barrier.waiting.empty()) end_phase(barrier);
}

void wait_phase(void* address, int parity) {
    PhaseBarrier& barrier = barrier_at(address);
    if (barrier.phase == parity) end_phase(barrier);
    while (barrier.phase == parity) {
        state.running->waits = "wait_phase";
        barrier.waiting.push_back(state.running);
        leave_to_next();
    }
}

void copy_bulk(unsigned char* target, const unsigned char* source, std::int64_t bytes, void* address) {
    require_aligned(target, "copy_bulk");
    require_aligned(source, "copy_bulk");
    if (bytes % 16 != 0) fail("copy_bulk: a multiple of 16 bytes");
    const bool within = std::any_of(state.cluster.begin(), state.cluster.end(), [&](const Block& block) {
        return target >= block.shared && target + bytes <= block.shared + state.shared_bytes;
    });
    if (!within) fail("copy_bulk: outside of shared memory");
    std::memset(target, 0xFF, static_cast<std::size_t>(bytes));
    PhaseBarrier& barrier = barrier_at(address);
    barrier.copies.push_back({target, source, bytes});
    barrier.issued += bytes;
    if (!barrier.waiting.empty()) end_phase(barrier);
    may_yield();
}

std::int64_t take_bank_conflicts() {
    return std::exchange(bank_conflicts, 0);
}

void* allocate(std::size_t bytes) {
    const std::size_t mapped = mapped_bytes(bytes);
    void* pages = mmap(nullptr, mapped + page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) fail("mmap failed");
    mprotect(static_cast<unsigned char*>(pages) + mapped, page_size(), PROT_NONE);
    auto* memory = static_cast<unsigned char*>(pages) + mapped - bytes;
    std::memset(memory, 0xFF, bytes);
    return memory;
}

void release(void* memory, std::size_t bytes) {
    const std::size_t mapped = mapped_bytes(bytes);
    munmap(static_cast<unsigned char*>(memory) + bytes - mapped, mapped + page_size());
}

}  // namespace emulator

extern "C" void emulated_schedule(std::uint64_t seed) {
    emulator::schedule.begin(seed);
}
