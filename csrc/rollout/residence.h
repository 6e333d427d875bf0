// Where the constants of a program lie during a rollout on a device, where they are brought from the memory of this
// process (Program::constants_here): as many as there is room for lie there from the first step to the last; the others
// are *streamed*: at every step of a tile they pass through one of two slots of its memory, a copy of the next one on
// its way while the node that reads this one computes (Tile::stream_constants).
//
// Streamed are weights of products, each read by one node. Of what is needed per step, a lane or sample more in a tile
// saves more copies than a resident weight of the same size: tiles come first, weights get what is left, small ones
// first, since a copy costs some microseconds whatever its size.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "backend/place.h"
#include "program/program.h"

namespace tqs {

class Residence {
  public:
    // All constants lie at the place; of a program that is not `constants_here` they already do. `prologue` may be
    // null.
    Residence(const Program& program, const Program* prologue, Place& place);

    // Of a device, 0 where constants already lie: bytes of those that lie there from step to step, and of those that
    // pass through it at every one.
    std::int64_t resident_bytes() const;
    std::int64_t streamed_bytes() const;

    // To be called before any tile: which are streamed.
    void stream_all();
    void keep_all() { streamed_.clear(); }
    // Keeps what fits `bytes` more.
    void keep(std::int64_t bytes);
    // Copies the resident ones. To be called once.
    void bring();

    bool streams(int buffer) const { return streamed_.count(buffer) > 0; }
    // Of a constant that is not streamed, at the place; before `bring`, and of one that is, in this process.
    const void* data(int buffer) const;

  private:
    std::int64_t bytes_of(int buffer) const;

    const Program& program_;
    Place& place_;
    std::set<int> streamable_, streamed_;
    std::map<int, PlaceBytes> placed_;
};

}  // namespace tqs
