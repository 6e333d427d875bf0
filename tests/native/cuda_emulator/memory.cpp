// Memory of the emulated device: arrays whose end is the end of a page that may not be touched, alignment, and bank
// conflicts.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "fibers.h"

namespace emulator {
namespace {

std::int64_t bank_conflicts = 0;

std::size_t page_size() {
    static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

std::size_t mapped_bytes(std::size_t bytes) {
    return (bytes + page_size() - 1) / page_size() * page_size();
}

}  // namespace

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

void require_aligned(const void* address, const char* what) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) fail(std::string(what) + ": address not aligned to 16");
}

void note_shared_load(const unsigned char* address) {
    may_yield();
    require_aligned(address, "load_from_shared");
    running().shared_loads.push_back(reinterpret_cast<std::uintptr_t>(address));
}

// The n-th loads of the lanes of a warp are one instruction.
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

std::int64_t take_bank_conflicts() {
    return std::exchange(bank_conflicts, 0);
}

}  // namespace emulator
