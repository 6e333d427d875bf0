// Runs a kernel: the blocks of a cluster at a time, every thread a fiber that runs until it waits for others or an
// adversary takes its turn away (schedule.h). A fault of device code ends the launch with an error.
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "schedule.h"

namespace emulator {

Index block_index, grid_size;
namespace {

struct Model {
    const char* name;
    int capability;
    std::size_t shared_limit;
};

Model model() {
    constexpr Model kModels[] = {{"9.0", 9, 227 << 10}, {"8.0", 8, 163 << 10}, {"8.6", 8, 99 << 10}};
    const char* const wanted = std::getenv("TQS_EMULATED_DEVICE");
    for (const Model& each : kModels) {
        if (!wanted || each.name == std::string(wanted)) return each;
    }
    fail(std::string("TQS_EMULATED_DEVICE must be 8.0, 8.6 or 9.0, got ") + wanted);
}

}  // namespace

std::size_t shared_limit = model().shared_limit;
int capability = model().capability;

namespace {

constexpr std::size_t kStack = 256 << 10;

struct State {
    const std::function<void()>* kernel = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;  // used again by every cluster
    std::deque<Fiber*> ready;
    std::vector<Block> cluster;
    Group threads;  // of all its blocks
    std::size_t shared_bytes = 0;
    std::uint32_t shared_begin = 0;
    Fiber* running = nullptr;
    ucontext_t main;
    std::string error;
};
State state;

std::string place(const Fiber* fiber) {
    if (!fiber) return "the launch";
    const Index& block = fiber->block->index;
    return "thread " + std::to_string(fiber->number) + " of block (" + std::to_string(block.x) + ", " +
           std::to_string(block.y) + ", " + std::to_string(block.z) + ")";
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

Fiber& fiber_of(std::size_t number) {
    if (state.fibers.size() <= number) {
        state.fibers.push_back(std::make_unique<Fiber>());
        state.fibers.back()->stack = std::make_unique<unsigned char[]>(kStack);
    }
    Fiber& fiber = *state.fibers[number];
    fiber.done = fiber.acted = fiber.begun = false;
    fiber.waits = nullptr;
    fiber.issued.clear();
    fiber.committed.clear();
    fiber.landed.clear();
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
    forget_barriers();
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
    require_finished();
    for (const Block& block : state.cluster) count_bank_conflicts(block);
}

}  // namespace

void launch(Index grid, int threads, std::size_t shared_bytes, const std::function<void()>& kernel, int cluster) {
    if (threads % kWarp != 0 || threads > 1024) fail("a block is whole warps, at most 32");
    if (shared_bytes % 128 != 0) fail("shared memory is a multiple of 128 bytes");
    constexpr unsigned kMost = 65535, kMostAlong = 0x7FFFFFFF;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMostAlong || grid.y > kMost || grid.z > kMost) {
        fail("a grid of this size cannot be launched");
    }
    if (grid.x % static_cast<unsigned>(cluster) != 0) fail("a grid is whole clusters");
    if (shared_bytes > shared_limit) fail("a block asks for more shared memory than the device has");
    state.kernel = &kernel;
    grid_size = grid;
    state.shared_bytes = shared_bytes;
    state.shared_begin = schedule.shared_begin();
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
                state.cluster[rank].hidden.assign(shared_bytes / 16, false);
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

void fail(const std::string& what) {
    throw std::runtime_error(what);
}

Fiber& running() {
    return *state.running;
}

Block& here() {
    return *state.running->block;
}

std::vector<Block>& cluster() {
    return state.cluster;
}

Group& cluster_threads() {
    return state.threads;
}

void wait_for(const char* what) {
    state.running->waits = what;
    leave_to_next();
}

void wake(Fiber* fiber) {
    fiber->waits = nullptr;
    state.ready.push_back(fiber);
}

void may_yield() {
    if (!schedule.adversarial() || state.ready.empty()) return;
    schedule.change_priority(state.running);
    state.ready.push_back(state.running);
    leave_to_next();
}

void begin_kernel() {
    if (state.running->acted) fail("begin_kernel does not come first");
    state.running->begun = true;
}

void require_begun() {
    if (!state.running->begun) fail("the kernel does not begin with begin_kernel");
}

Index thread_index() {
    state.running->acted = true;
    return {static_cast<unsigned>(state.running->number), 0, 0};
}

int cluster_rank() {
    return static_cast<int>(&here() - state.cluster.data());
}

unsigned char* shared_memory() {
    state.running->acted = true;
    return here().shared;
}

std::size_t shared_memory_bytes() {
    return state.shared_bytes;
}

std::uint32_t shared_begin() {
    return state.shared_begin;
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

}  // namespace emulator
