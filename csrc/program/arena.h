// Where the arena buffers of a program lie: buffers whose lives do not overlap share memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tqs {

struct Life {
    std::int64_t bytes;
    int first;  // index of the node that writes it first
    int last;   // index of the node that reads it last
};

struct ArenaPlan {
    std::vector<std::int64_t> offsets;  // multiples of 64, one per life
    std::int64_t bytes = 0;
};

// Largest first, each at the lowest offset that is free during its whole life.
ArenaPlan plan_arena(std::span<const Life> lives);

}  // namespace tqs
