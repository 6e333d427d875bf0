#include "rollout/schedule.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "core/check.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// What a tile may take of the caches: the second level of current server cores holds 1 to 2 MiB.
constexpr std::int64_t kTileBytes = 1 << 20;
// Rows that a product should have: two blocks of the widest micro-kernel.
constexpr std::int64_t kProductRows = 32;
// Tangents that a tile should have: each tile of tangents runs the primal too, at the cost of about one of them. That
// outweighs a tile which leaves the second-level cache (products read it once per panel of weights).
constexpr std::int64_t kTangents = 16;
// How often the caller is asked whether to go on. Asking takes Python's lock.
constexpr std::chrono::milliseconds kPatience{20};

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

}  // namespace

TileSize choose_tile(const Stages& stages, std::int64_t lanes, std::int64_t samples, bool tangent, int threads,
                     std::int64_t memory_limit) {
    const std::int64_t workers = threads == 0 ? default_threads() : threads;
    const std::int64_t own = tangent ? 1 : 0;  // the primal of a tile of tangents
    const Program& program = *stages.program;
    // The tiles of prologue and program are both there while states are handed on.
    std::int64_t unit = std::max<std::int64_t>(1, Tile::bytes(program, {1, 1, tangent}));
    if (stages.prologue) unit += Tile::bytes(*stages.prologue, {1, 1, tangent});
    std::int64_t units = std::max(kTileBytes / unit, ceil_divide(kProductRows, program.product_rows()));
    if (tangent) units = std::max(units, 1 + std::min(lanes, kTangents));
    if (memory_limit > 0) {
        const std::int64_t allowed = memory_limit / workers / unit;
        require(allowed >= 1 + own, "rollout", "a memory limit of ", memory_limit, " bytes is too small for ", workers,
                " threads of ", (1 + own) * unit, " bytes each; raise it or use fewer threads");
        units = std::min(units, allowed);
    }
    units = std::max(units, 1 + own);

    TileSize size{};
    if (tangent) {
        // All tangents of as many samples as fit; tangents are split only where there are too few samples.
        size.samples =
            std::clamp<std::int64_t>(units / (1 + lanes), 1, ceil_divide(samples, std::min(workers, samples)));
        size.lanes = std::clamp<std::int64_t>(units / size.samples - 1, 1, lanes);
        const std::int64_t pieces = ceil_divide(workers, ceil_divide(samples, size.samples));
        size.lanes = std::min(size.lanes, ceil_divide(lanes, pieces));
    } else {
        size.samples = std::min(units, samples);
        size.lanes = std::clamp<std::int64_t>(units / size.samples, 1, lanes);
        const std::int64_t pieces = ceil_divide(workers, ceil_divide(samples, size.samples));
        size.lanes = std::min(size.lanes, ceil_divide(lanes, pieces));
        if (lanes < workers) size.samples = std::min(size.samples, ceil_divide(samples, ceil_divide(workers, lanes)));
    }
    // Even pieces: 5 + 5 rather than 9 + 1.
    size.lanes = ceil_divide(lanes, ceil_divide(lanes, size.lanes));
    size.samples = ceil_divide(samples, ceil_divide(samples, size.samples));
    return size;
}

void for_each_tile(TileSize size, std::int64_t lanes, std::int64_t samples, int threads, const Interrupt& interrupt,
                   const TileBody& body) {
    const std::int64_t across = ceil_divide(samples, size.samples);
    const std::int64_t tiles = ceil_divide(lanes, size.lanes) * across;
    const std::int64_t workers = std::min<std::int64_t>(threads == 0 ? default_threads() : threads, tiles);
    const auto caller = std::this_thread::get_id();
    std::atomic<std::int64_t> next{0};
    std::atomic<bool> stopped{false};
    auto asked = std::chrono::steady_clock::now();  // used by the caller's thread only
    const auto ask = [&] {
        const auto now = std::chrono::steady_clock::now();
        if (interrupt && now - asked >= kPatience) {
            asked = now;
            if (interrupt()) stopped.store(true);
        }
    };
    const std::function<void()> stop = [&] {
        if (std::this_thread::get_id() == caller) ask();
        if (stopped.load(std::memory_order_relaxed)) throw Interrupted{};
    };
    parallel_for(
        workers, static_cast<int>(workers),
        [&](std::int64_t, std::int64_t) {
            for (std::int64_t tile; (tile = next.fetch_add(1)) < tiles;) {
                const std::int64_t lane = tile / across * size.lanes, sample = tile % across * size.samples;
                body(lane, std::min(size.lanes, lanes - lane), sample, std::min(size.samples, samples - sample), stop);
            }
        },
        ask);
}

}  // namespace tqs
