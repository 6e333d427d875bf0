// A tile: some lanes and some samples of a rollout, run from the first step to the last by one thread. Tiles are
// independent, which is how rollouts are cut to fit a memory limit and spread over threads without any synchronisation.
// What all lanes of a tile have in common is computed once (rollout/sharing.h).
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/aligned.h"
#include "rollout/sharing.h"

namespace tqs {

// Per constant buffer, one pointer per lane of the tile: its variants, or the constant and its tangents (null for
// zero).
using LaneConstants = std::map<int, std::vector<const void*>>;

// Where an input leaf [samples, steps, elements] begins, for the first sample of the tile.
struct InputSeries {
    const void* data;
    std::int64_t steps;
};

// The first NaN or infinity of a step, in order of the nodes.
struct NonFinite {
    int node;  // -1: the state or input it started from
    std::int64_t lane, sample;
};

class Tile {
  public:
    // `seeded`: per state leaf, whether lanes differ in it from the start (tangent seeds); empty for none.
    Tile(const Program& program, Extent extent, LaneConstants constants, std::vector<InputSeries> inputs,
         std::vector<bool> seeded);

    // Bytes that a tile of this extent takes at most, without variants.
    static std::int64_t bytes(const Program& program, Extent extent);

    // Leaf `leaf` of the state, contiguous [samples, elements], into one lane; where the leaf is shared, lane 0 only.
    void set_state(std::size_t leaf, std::int64_t lane, const void* data);
    void get_state(std::size_t leaf, std::int64_t lane, void* data) const;
    // Number of elements of a leaf, per sample.
    std::int64_t state_elements(std::size_t leaf) const;

    // Steps must be taken in order, t = 0, 1, ...
    void step(std::int64_t t);
    // The output of the last step taken.
    const Operand& output() const;

    // Runs step t again from the same states, node by node, until a value is not finite. To be called in place of
    // step(t).
    std::unique_ptr<NonFinite> find_non_finite(std::int64_t t);

    const Extent& extent() const { return extent_; }
    std::int64_t allocated_bytes() const { return allocated_; }

  private:
    struct Regime {
        std::vector<char> shared;       // per buffer
        std::vector<Operand> operands;  // of all frames, then the output and the next states
        std::vector<Frame> frames;
        std::vector<std::size_t> begins;  // per node: its operands
        std::size_t output = 0;           // into operands
        std::vector<std::size_t> next;    // into operands, per state leaf
        // Operands whose data move between steps: index, value.
        struct Moving {
            std::size_t operand;
            int value;
        };
        std::vector<Moving> moving;
    };

    void allocate();
    void pack_constants();
    void build(Regime& regime);
    Operand operand_of(const Regime& regime, int value);
    Operand operand_of(Regime& regime, int value, std::size_t position);
    void move_pointers(Regime& regime, std::int64_t t);
    void cut_operands(std::size_t node, std::int64_t row, std::int64_t rows, const Operand* whole,
                      Operand* operands) const;
    // Runs the nodes of step t; visit(node) after each, which in a strip is once for every few rows. Stops after a node
    // or strip once visit has returned false.
    template <class Visit>
    void run_nodes(Regime& regime, std::int64_t t, const Visit& visit);
    void advance_states(const Regime& regime);
    Regime& regime_of(std::int64_t t) { return t == 0 && !first_.frames.empty() ? first_ : later_; }

    const Program& program_;
    Extent extent_;
    LaneConstants constants_;
    std::vector<InputSeries> inputs_;
    Regime first_, later_;
    const Regime* last_ = nullptr;
    std::vector<Operand> uncut_;                                    // of the strip at hand
    std::vector<int> state_of_;                                     // per buffer: its leaf, -1
    std::vector<int> input_of_;                                     // per buffer: its leaf, -1
    std::vector<char*> states_;                                     // per leaf: memory [lanes, samples, elements]
    std::vector<std::int64_t> slid_;                                // per leaf: positions moved on so far
    std::vector<AlignedBytes> packed_;                              // packed variants
    std::vector<std::vector<const void*>> panel_lanes_;             // per node; empty: no variants
    std::vector<std::unique_ptr<std::vector<void*>>> lane_tables_;  // of operands that are constants with variants
    AlignedBytes memory_;
    char* arena_ = nullptr;
    char* scratch_ = nullptr;
    std::int64_t allocated_ = 0;
};

}  // namespace tqs
