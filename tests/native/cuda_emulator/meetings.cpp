// Threads that meet: collectives of a warp or warpgroup, and barriers of a block, of a part of it or of a cluster. All
// members of the group must come to the same one.
#include <cstring>

#include "fibers.h"

namespace emulator {
namespace {

void meet(Group& group, int position, const char* tag, void* brought, Act act) {
    if (group.arrived == 0) group.tag = tag;
    if (std::strcmp(group.tag, tag) != 0) {
        fail(std::string("divergence: came to ") + tag + " while others wait at " + group.tag);
    }
    group.brought[static_cast<std::size_t>(position)] = brought;
    if (++group.arrived < static_cast<int>(group.members.size())) {
        wait_for(tag);
        return;
    }
    if (act) act(group.brought.data(), group.arrived);
    group.arrived = 0;
    for (Fiber* member : group.members) {
        if (member != &running()) wake(member);
    }
    may_yield();
}

}  // namespace

void meet_warp(const char* tag, void* brought, Act act) {
    const int number = running().number;
    meet(here().warps[static_cast<std::size_t>(number / kWarp)], number % kWarp, tag, brought, act);
}

void meet_warpgroup(const char* tag, void* brought, Act act) {
    const int number = running().number;
    meet(here().warpgroups[static_cast<std::size_t>(number / kWarpgroup)], number % kWarpgroup, tag, brought, act);
}

void meet_block(const char* tag) {
    meet(here().threads, running().number, tag, nullptr, nullptr);
}

void meet_part(const char* tag, int threads) {
    const int number = running().number;
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
    const int number = cluster_rank() * static_cast<int>(here().threads.members.size()) + running().number;
    meet(cluster_threads(), number, tag, nullptr, nullptr);
}

}  // namespace emulator
