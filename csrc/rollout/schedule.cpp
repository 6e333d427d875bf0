#include "rollout/schedule.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "core/check.h"
#include "core/parallel.h"

namespace tqs {
namespace {

// How often the caller is asked whether to go on. Asking takes Python's lock.
constexpr std::chrono::milliseconds kPatience{20};

}  // namespace

void for_each_tile(const std::vector<Piece>& pieces, std::int64_t samples, int threads, const Interrupt& interrupt,
                   const TileBody& body) {
    struct Part {
        const Piece* piece;
        std::int64_t sample;
    };
    std::vector<Part> tiles;
    for (const Piece& piece : pieces) {
        for (std::int64_t sample = 0; sample < samples; sample += piece.samples) tiles.push_back({&piece, sample});
    }
    const auto count = static_cast<std::int64_t>(tiles.size());
    const std::int64_t workers = std::min<std::int64_t>(threads == 0 ? default_threads() : threads, count);
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
            for (std::int64_t tile; (tile = next.fetch_add(1)) < count;) {
                const auto& [piece, sample] = tiles[static_cast<std::size_t>(tile)];
                body(piece->lane, piece->lanes, sample, std::min(piece->samples, samples - sample), stop);
            }
        },
        ask);
}

}  // namespace tqs
