#include "program/arena.h"

#include <algorithm>
#include <numeric>

namespace tqs {
namespace {

std::int64_t aligned(std::int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

}  // namespace

ArenaPlan plan_arena(std::span<const Life> lives) {
    std::vector<int> order(lives.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lives[a].bytes > lives[b].bytes; });

    ArenaPlan plan;
    plan.offsets.resize(lives.size());
    std::vector<int> placed;
    std::vector<int> rivals;  // placed buffers alive at the same time, by offset
    for (const int index : order) {
        const Life& life = lives[index];
        rivals.clear();
        for (const int other : placed) {
            if (lives[other].first <= life.last && life.first <= lives[other].last) rivals.push_back(other);
        }
        std::sort(rivals.begin(), rivals.end(), [&](int a, int b) { return plan.offsets[a] < plan.offsets[b]; });
        std::int64_t offset = 0;
        for (const int other : rivals) {
            if (offset + aligned(life.bytes) <= plan.offsets[other]) break;
            offset = std::max(offset, plan.offsets[other] + aligned(lives[other].bytes));
        }
        plan.offsets[index] = offset;
        plan.bytes = std::max(plan.bytes, offset + aligned(life.bytes));
        placed.push_back(index);
    }
    return plan;
}

}  // namespace tqs
