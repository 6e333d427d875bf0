// Tile::run_nodes and Tile::take_step, for the files that visit the nodes of a step.
#pragma once

#include <algorithm>

#include "rollout/tile.h"

namespace tqs {

template <class Visit>
void Tile::run_nodes(Regime& regime, std::int64_t t, const Visit& visit) {
    const Strips& strips = program_.strips();
    auto strip = strips.strips.begin();
    bool going = true;
    for (std::size_t node = 0; going && node < regime.frames.size();) {
        if (strip == strips.strips.end() || node < static_cast<std::size_t>(strip->first)) {
            run_node(regime, node, t);
            going = visit(node++);
            continue;
        }
        const std::size_t end = static_cast<std::size_t>(strip->end);
        Operand* const first = regime.operands.data() + regime.begins[node];
        uncut_.assign(first, regime.operands.data() + regime.begins[end]);
        for (std::int64_t row = 0; row < strip->rows; row += strip->some) {
            const std::int64_t rows = std::min(strip->some, strip->rows - row);
            for (std::size_t i = node; i < end; ++i) {
                Frame& frame = regime.frames[i];
                frame.step = t;
                const std::size_t begin = regime.begins[i] - regime.begins[node];
                cut_operands(i, row, rows, uncut_.data() + begin, first + begin);
                program_.op(i).run(frame);
                going = visit(i) && going;
            }
        }
        std::copy(uncut_.begin(), uncut_.end(), first);
        node = end;
        ++strip;
    }
}

template <class Visit>
void Tile::take_step(Regime& regime, std::int64_t t, const Collect& collect, const Visit& visit) {
    move_pointers(regime, t);
    run_nodes(regime, t, visit);
    run_moves(regime, regime.begins.back(), regime.operands.size(), true);
    advance_states(regime);
    if (collect) collect(regime.operands[regime.output]);
    if (place_->device()) place_->device()->advance(clock());
}

}  // namespace tqs
