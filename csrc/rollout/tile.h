// A tile: some lanes and some samples of a rollout, run from the first step to the last by one thread, or by a device.
// Tiles are independent, which is how rollouts are cut to fit a memory limit and spread over threads without any
// synchronisation. What all lanes of a tile have in common is computed once (rollout/sharing.h).
//
// On a device steps are recorded once one has run, and then replayed: no address in them may move. There
// sliding states are moved back at every step, and other views that move on are copied to or from a fixed place, by the
// number of the step that the device counts.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "backend/device.h"
#include "rollout/residence.h"
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
    // `seeded`: per state leaf, whether lanes differ in it from the start (tangent seeds); empty for none. Constants
    // lie at `place`, which is the program's, or where `residence` says (null: all at the place; a lane without a
    // variant has the data of the constant's spec); inputs in the memory of this process.
    Tile(const Program& program, std::shared_ptr<Place> place, Extent extent, LaneConstants constants,
         std::vector<InputSeries> inputs, std::vector<bool> seeded, const Residence* residence);

    // Bytes that a tile of this extent takes at most, without variants.
    static std::int64_t bytes(const Program& program, Extent extent);

    // Leaf `leaf` of the state, contiguous [lanes, samples, elements], of lanes from `lane` on; where the leaf is
    // shared, set in lane 0 only.
    void set_state(std::size_t leaf, std::int64_t lane, const void* data, std::int64_t lanes = 1);
    void get_state(std::size_t leaf, std::int64_t lane, void* data, std::int64_t lanes = 1) const;
    // The same without leaving the device: all lanes of a leaf to, and its tangents from, an operand there [elements].
    void get_lanes(std::size_t leaf, const Operand& out) const;
    void set_tangents(std::size_t leaf, const Operand& from);
    // Number of elements of a leaf, per sample.
    std::int64_t state_elements(std::size_t leaf) const;

    // Takes step t, or on a device some of the `left` steps from t on; how many. In order, from t = 0 on. `collect` is
    // called at the end of every step, with its output; on a device only when a step is enqueued and when it is
    // recorded.
    using Collect = std::function<void(const Operand& output)>;
    std::int64_t step(std::int64_t t, std::int64_t left, const Collect& collect);

    // Runs step t again from the same states, node by node, until a value is not finite. To be called in place of
    // step(t).
    std::unique_ptr<NonFinite> find_non_finite(std::int64_t t);

    const Extent& extent() const { return extent_; }
    std::int64_t allocated_bytes() const { return allocated_; }
    // On a device, where it counts the steps of this tile.
    std::int64_t* clock() const { return reinterpret_cast<std::int64_t*>(clock_.get()); }

  private:
    // An operand that is copied from a place that moves, or to one.
    struct Move {
        std::size_t operand;
        MoveTask task;
    };
    struct Regime {
        std::vector<char> shared;       // per buffer
        std::vector<Operand> operands;  // of all frames, then the output and the next states
        std::vector<Frame> frames;
        std::vector<std::size_t> begins;  // per node: its operands; then the output and the next states
        std::size_t output = 0;           // into operands
        std::vector<std::size_t> next;    // into operands, per state leaf
        // Operands whose data move between steps: index, value.
        struct Moving {
            std::size_t operand;
            int value;
        };
        std::vector<Moving> moving;
        std::vector<Move> moves;  // on a device, in place of `moving`
        std::unique_ptr<Replay> replay;
        std::int64_t recorded = 0, taken = 0;  // steps: of a replay, and so far
    };

    // A constant that one node reads and that is copied to `to` for it at every step.
    struct Passing {
        std::size_t node;
        int buffer;
        std::int64_t bytes;
        char* to;
    };

    // tile.cpp
    char* take(std::int64_t bytes);
    void stream_constants();
    const void* constant(int buffer) const;
    void copy_constant(std::size_t passing);
    void allocate();
    void place_inputs();
    Operand leaf_operand(std::size_t leaf) const;
    void pack_constants();

    // regimes.cpp
    // Bytes of scratch that its frames want.
    std::int64_t build(Regime& regime);
    Operand operand_of(const Regime& regime, int value);
    Operand operand_of(Regime& regime, int value, std::size_t position, bool written);
    bool moves(int value) const;
    void note_move(Regime& regime, int value, std::size_t position, bool written, Operand& operand);

    // steps.cpp, and templates in tile_nodes.h
    void run_node(Regime& regime, std::size_t node, std::int64_t t);
    void pass_on();
    void move_pointers(Regime& regime, std::int64_t t);
    void cut_operands(std::size_t node, std::int64_t row, std::int64_t rows, const Operand* whole,
                      Operand* operands) const;
    // Runs the nodes of step t; visit(node) after each, which in a strip is once for every few rows. Stops after a node
    // or strip once visit has returned false.
    template <class Visit>
    void run_nodes(Regime& regime, std::int64_t t, const Visit& visit);
    void run_moves(const Regime& regime, std::size_t first, std::size_t end, bool into) const;
    void advance_states(const Regime& regime);
    void advance_window(const Regime& regime, std::size_t leaf, Operand& target);
    void slide_through_spare(const StateSpec& state, const Operand& buffer, std::int64_t lanes) const;
    void copy(std::int64_t lanes, const Operand& x, const Operand& out) const;
    std::int64_t worth_recording(const Regime& regime, std::int64_t left) const;
    template <class Visit>
    void take_step(Regime& regime, std::int64_t t, const Collect& collect, const Visit& visit);
    Regime& regime_of(std::int64_t t) { return t == 0 && !first_.frames.empty() ? first_ : later_; }

    const Program& program_;
    std::shared_ptr<Place> place_;
    Extent extent_;
    LaneConstants constants_;
    std::vector<InputSeries> inputs_;
    std::vector<PlaceBytes> memory_;
    Regime first_, later_;
    std::vector<Operand> uncut_;                                    // of the strip at hand
    std::vector<int> state_of_;                                     // per buffer: its leaf, -1
    std::vector<int> input_of_;                                     // per buffer: its leaf, -1
    std::vector<char*> states_;                                     // per leaf: memory [lanes, samples, elements]
    std::vector<std::int64_t> slid_;                                // per leaf: positions moved on so far
    std::vector<std::vector<const void*>> panel_lanes_;             // per node; empty: no variants
    std::vector<std::unique_ptr<std::vector<void*>>> lane_tables_;  // of operands that are constants with variants
    PlaceBytes clock_;
    const Residence* residence_;
    std::vector<Passing> passing_;  // in order of the nodes
    std::unique_ptr<Feed> feed_;    // of `passing_`, by number; null: there are none, or this is a dry run
    std::size_t next_passing_ = 0;
    char* arena_ = nullptr;
    char* spare_ = nullptr;  // on a device, where windows pass through
    std::int64_t allocated_ = 0;
};

}  // namespace tqs
