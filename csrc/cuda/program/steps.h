// What happens between nodes and between steps (steps.cu): tasks of backend/device.h.
#pragma once

#include "backend/device.h"

namespace tqs::cuda {

void move_operand(const MoveTask& task);
void collect_output(const CollectTask& task);
void advance_clock(std::int64_t* clock);

}  // namespace tqs::cuda
