#include "rollout/cut.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"
#include "rollout/cost.h"
#include "rollout/predict.h"

namespace tqs {
namespace {

// What a tile may take of the caches: the second level of current server cores holds 1 to 2 MiB.
constexpr std::int64_t kTileBytes = 1 << 20;
// A tile may leave that cache, up to so many bytes, where its lanes have work in common.
constexpr std::int64_t kSharedBytes = 1 << 24;
// Rows that a product should have: two blocks of the widest micro-kernel.
constexpr std::int64_t kProductRows = 32;
// Tangents that a tile should have: each tile of tangents runs the primal too, at the cost of about one of them. That
// outweighs a tile which leaves the second-level cache (products read it once per panel of weights).
constexpr std::int64_t kTangents = 16;
// How uneven the threads' shares may be, and how often a tile is cut in two to make them even.
constexpr double kUneven = 1.05;
constexpr int kHalvings = 8;

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// Tile sizes are counted in units: one lane of one sample.
struct Units {
    std::int64_t own;      // 1 where a tile runs the primal beside its lanes
    std::int64_t good;     // per tile
    std::int64_t allowed;  // per tile
};

Units count_units(const Stages& stages, const Rollout& rollout, std::int64_t workers, std::int64_t memory_limit) {
    const Program& program = *stages.program;
    const auto lanes = static_cast<std::int64_t>(rollout.changed.size());
    Units units{rollout.tangent ? 1 : 0, 0, 0};
    // The tiles of prologue and program are both there while states are handed on.
    std::int64_t bytes = std::max<std::int64_t>(1, Tile::bytes(program, {1, 1, rollout.tangent}));
    if (stages.prologue) bytes += Tile::bytes(*stages.prologue, {1, 1, rollout.tangent});
    units.good = std::max(kTileBytes / bytes, ceil_divide(kProductRows, program.product_rows()));
    if (rollout.tangent) units.good = std::max(units.good, 1 + std::min(lanes, kTangents));
    units.allowed = std::max(units.good, kSharedBytes / bytes);
    if (rollout.together) units.allowed = std::max(units.allowed, units.own + lanes);
    if (memory_limit > 0) {
        units.allowed = memory_limit / workers / bytes;
        require(units.allowed >= 1 + units.own, "rollout", "a memory limit of ", memory_limit,
                " bytes is too small for ", workers, " threads of ", (1 + units.own) * bytes,
                " bytes each; raise it or use fewer threads");
    }
    units.allowed = std::max(units.allowed, 1 + units.own);
    units.good = std::clamp(units.good, 1 + units.own, units.allowed);
    return units;
}

// Of a device's free memory, what a tile may take: some is left for tables, graphs and for torch.
constexpr double kDeviceShare = 0.85;

std::int64_t device_limit(Device& device, std::int64_t memory_limit) {
    if (memory_limit > 0) return memory_limit;
    return static_cast<std::int64_t>(kDeviceShare * static_cast<double>(device.available()));
}

std::int64_t fewest_lanes(const Rollout& rollout) {
    return rollout.together ? static_cast<std::int64_t>(rollout.changed.size()) : 1;
}

// On a device memory grows with units, from what does not depend on them.
Units count_device_units(const Stages& stages, Device& device, const Rollout& rollout, std::int64_t limit) {
    const std::int64_t own = rollout.tangent ? 1 : 0, lanes = fewest_lanes(rollout);
    const std::int64_t held = stages.residence->resident_bytes();
    const std::int64_t one = held + predict_bytes(stages, device, rollout, {0, lanes, 1});
    const std::int64_t each = held + predict_bytes(stages, device, rollout, {0, lanes, 2}) - one;  // own + lanes units
    require(one <= limit, "rollout", "a memory limit of ", limit, " bytes is too small for a rollout that takes ", one,
            " bytes on the device; raise it, or use fewer tangents at once");
    const std::int64_t allowed = (1 + (limit - one) / std::max<std::int64_t>(1, each)) * (own + lanes);
    return {own, allowed, allowed};
}

// Lanes next to each other, and how they are best cut.
struct LaneRun {
    std::int64_t lane, lanes;
    std::vector<int> changed;
    Piece piece;  // its first
    double tile;  // cost of a tile
    double cost;  // of all of them
};

class Cutter {
  public:
    Cutter(const Stages& stages, const Rollout& rollout, std::int64_t workers, const Units& units)
        : program_(*stages.program), rollout_(rollout), workers_(workers), units_(units) {}

    // The best way of cutting a run, all its pieces being alike.
    LaneRun best(std::int64_t lane, std::int64_t lanes, std::vector<int> changed) const {
        const TileCost cost(program_, changed, rollout_.seeded, rollout_.steps);
        LaneRun run{lane, lanes, std::move(changed), {}, 0, 0};
        for (std::int64_t pieces = 1;; pieces = std::min(2 * pieces, lanes)) {
            const std::int64_t each = ceil_divide(lanes, pieces), rows = units_.own + each;
            if (rows <= units_.allowed || (pieces == lanes && run.cost == 0)) {
                std::int64_t samples = std::clamp<std::int64_t>(units_.good / rows, 1, rollout_.samples);
                samples = ceil_divide(rollout_.samples, ceil_divide(rollout_.samples, samples));
                const double tile = cost(rows, samples);
                const double total = tile * static_cast<double>(tiles({0, each, samples}, lanes));
                if (run.cost == 0 || total < run.cost) {
                    run.piece = {lane, each, samples};
                    run.tile = tile;
                    run.cost = total;
                }
            }
            if (pieces == lanes || rollout_.together) return run;
        }
    }

    // Runs of lanes that differ in the same constants, joined where that is no dearer.
    std::vector<LaneRun> runs() const {
        std::vector<LaneRun> result;
        const auto lanes = static_cast<std::int64_t>(rollout_.changed.size());
        for (std::int64_t lane = 0, end; lane < lanes; lane = end) {
            const auto& changed = rollout_.changed[static_cast<std::size_t>(lane)];
            for (end = lane + 1; end < lanes && (rollout_.together || same(end, changed));) ++end;
            LaneRun run = best(lane, end - lane, changed);
            while (!result.empty()) {
                const LaneRun& before = result.back();
                std::vector<int> all;
                std::set_union(before.changed.begin(), before.changed.end(), run.changed.begin(), run.changed.end(),
                               std::back_inserter(all));
                LaneRun joined = best(before.lane, before.lanes + run.lanes, std::move(all));
                if (joined.cost > before.cost + run.cost) break;
                run = std::move(joined);
                result.pop_back();
            }
            result.push_back(std::move(run));
        }
        return result;
    }

    std::vector<Piece> pieces() const;

    // Cuts the costliest tiles in two, again and again, and keeps what leaves the busiest thread least to do.
    void even_out(std::vector<LaneRun>& runs) const {
        std::vector<LaneRun> trial = runs;
        double total = 0, least = makespan(runs);
        for (const LaneRun& run : runs) total += run.cost;
        for (int halving = 0; halving < kHalvings && least > kUneven * total / static_cast<double>(workers_);
             ++halving) {
            LaneRun& run = *std::max_element(trial.begin(), trial.end(),
                                             [](const LaneRun& a, const LaneRun& b) { return a.tile < b.tile; });
            if (run.piece.samples > 1) {
                run.piece.samples = ceil_divide(run.piece.samples, 2);
            } else if (run.piece.lanes > 1 && !rollout_.together) {
                run.piece.lanes = ceil_divide(run.piece.lanes, 2);
            } else {
                return;
            }
            const TileCost cost(program_, run.changed, rollout_.seeded, rollout_.steps);
            run.tile = cost(units_.own + run.piece.lanes, run.piece.samples);
            run.cost = run.tile * static_cast<double>(tiles(run.piece, run.lanes));
            if (const double span = makespan(trial); span < least) {
                least = span;
                runs = trial;
            }
        }
    }

  private:
    std::int64_t tiles(const Piece& piece, std::int64_t lanes) const {
        return ceil_divide(lanes, piece.lanes) * ceil_divide(rollout_.samples, piece.samples);
    }

    bool same(std::int64_t lane, const std::vector<int>& changed) const {
        return rollout_.changed[static_cast<std::size_t>(lane)] == changed;
    }

    // Time of the busiest thread when each takes the next tile, costly ones first.
    double makespan(std::vector<LaneRun> runs) const {
        std::sort(runs.begin(), runs.end(), [](const LaneRun& a, const LaneRun& b) { return a.tile > b.tile; });
        std::vector<double> busy(static_cast<std::size_t>(workers_), 0.0);
        for (const LaneRun& run : runs) {
            for (std::int64_t tile = tiles(run.piece, run.lanes); tile > 0; --tile) {
                *std::min_element(busy.begin(), busy.end()) += run.tile;
            }
        }
        return *std::max_element(busy.begin(), busy.end());
    }

    const Program& program_;
    const Rollout& rollout_;
    std::int64_t workers_;
    Units units_;
};

std::vector<Piece> Cutter::pieces() const {
    std::vector<LaneRun> found = runs();
    if (workers_ > 1) even_out(found);
    std::stable_sort(found.begin(), found.end(), [](const LaneRun& a, const LaneRun& b) { return a.tile > b.tile; });
    std::vector<Piece> pieces;
    for (const LaneRun& run : found) {
        const std::int64_t count = ceil_divide(run.lanes, run.piece.lanes);
        for (std::int64_t i = 0; i < count; ++i) {  // even pieces: 5 + 5 rather than 9 + 1
            const std::int64_t begin = run.lanes * i / count, end = run.lanes * (i + 1) / count;
            pieces.push_back({run.lane + begin, end - begin, run.piece.samples});
        }
    }
    return pieces;
}

// Constants are streamed where they do not fit beside the smallest tile that there may be.
void place_constants(const Stages& stages, Device& device, const Rollout& rollout, std::int64_t limit) {
    std::int64_t lane = 0, most = 0;
    const std::int64_t lanes = fewest_lanes(rollout);
    for (std::int64_t first = 0; first + lanes <= static_cast<std::int64_t>(rollout.changed.size()); ++first) {
        const std::int64_t drawn = rollout.drawn_bytes({first, lanes, 1});
        if (drawn > most) lane = first, most = drawn;
    }
    const std::int64_t least = predict_bytes(stages, device, rollout, {lane, lanes, 1});
    if (stages.residence->resident_bytes() + least > limit) stages.residence->stream_all();
}

// Tables of lanes and constants that lanes draw are no part of what grows with units: where they are what is too much,
// tiles become smaller until all fit.
std::vector<Piece> cut_for_device(const Stages& stages, Device& device, const Rollout& rollout, std::int64_t limit) {
    Units units = count_device_units(stages, device, rollout, limit);
    for (;;) {
        std::vector<Piece> pieces = Cutter(stages, rollout, 1, units).pieces();
        const std::int64_t most = predict_most(stages, device, rollout, pieces);
        if (most <= limit) {
            stages.residence->keep(limit - most);
            return pieces;
        }
        require(units.allowed > 1 + units.own, "rollout", "a memory limit of ", limit,
                " bytes is too small for a rollout that takes ", most,
                " bytes on the device; raise it, or change fewer weights per lane");
        const double fitting =
            static_cast<double>(units.allowed) * static_cast<double>(limit) / static_cast<double>(most);
        units.allowed = std::max(1 + units.own, std::min(units.allowed - 1, static_cast<std::int64_t>(fitting)));
        units.good = units.allowed;
    }
}

}  // namespace

std::vector<Piece> cut(const Stages& stages, Place& place, const Rollout& rollout, int threads,
                       std::int64_t memory_limit) {
    if (Device* device = place.device()) {
        const std::int64_t limit = device_limit(*device, memory_limit);
        place_constants(stages, *device, rollout, limit);
        std::vector<Piece> pieces = cut_for_device(stages, *device, rollout, limit);
        stages.residence->bring();
        return pieces;
    }
    const std::int64_t workers = threads == 0 ? default_threads() : threads;
    return Cutter(stages, rollout, workers, count_units(stages, rollout, workers, memory_limit)).pieces();
}

Piece largest(const std::vector<Piece>& pieces) {
    return *std::max_element(pieces.begin(), pieces.end(),
                             [](const Piece& a, const Piece& b) { return a.lanes * a.samples < b.lanes * b.samples; });
}

}  // namespace tqs
