#include "schedule.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace emulator {

bool reversed = false;
Schedule schedule;

Schedule::Schedule() {
    const char* seed = std::getenv("TQS_EMULATOR_SEED");
    begin(seed ? std::strtoull(seed, nullptr, 10) : 0);
}

void Schedule::begin(std::uint64_t seed) {
    adversarial_ = seed != 0;
    state_ = seed;
}

bool Schedule::adversarial() const {
    return adversarial_ && !reversed;
}

void Schedule::set_priorities(const std::vector<Fiber*>& threads) {
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

void Schedule::change_priority(Fiber* thread) {
    if (adversarial() && random() % 64 == 0) thread->priority = random();
}

Fiber* Schedule::take(std::deque<Fiber*>& ready) {
    if (adversarial()) {
        const auto first = std::max_element(ready.begin(), ready.end(),
                                            [](const Fiber* a, const Fiber* b) { return a->priority < b->priority; });
        std::swap(*first, ready.front());
    }
    Fiber* next = ready.front();
    ready.pop_front();
    return next;
}

std::vector<Index> Schedule::clusters(Index grid, unsigned cluster) {
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

std::uint32_t Schedule::shared_begin() {
    const auto drawn = static_cast<std::uint32_t>(random() % 14);
    return drawn < 7 ? 1024 : 128 * (drawn - 6);
}

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
std::uint64_t Schedule::random() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

}  // namespace emulator

extern "C" void emulated_schedule(std::uint64_t seed) {
    emulator::schedule.begin(seed);
}
