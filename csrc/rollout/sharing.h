// What all lanes of a tile have in common is computed once.
//
// At the first step lanes start from the same states; later a state is shared as long as nothing upstream of it differs
// between lanes (a spectrum of the input, say). So every buffer is *shared* or not under two regimes, the first step
// and the later ones. In a tangent rollout a shared value is one whose tangent is zero.
#pragma once

#include <vector>

#include "program/program.h"

namespace tqs {

struct Sharing {
    std::vector<char> first, later;  // per buffer
};

// `changed`: the constant buffers in which lanes differ. `seeded`: per state leaf, whether lanes differ in it from the
// start (tangent seeds); empty for none.
Sharing share(const Program& program, const std::vector<int>& changed, const std::vector<bool>& seeded);

}  // namespace tqs
