// Strips: stretches of nodes that treat every row of their values alike (a token, a time step), such as a product, what
// follows it element by element, a norm and the next product. They are run some rows at a time, all nodes on the first
// rows, then all on the next, so that what one node writes is still in the cache when the next reads it; values that
// nothing outside the strip reads have room for those rows only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "program/op.h"

namespace tqs {

struct Strip {
    int first, end;           // nodes
    std::int64_t rows, some;  // in all, and at a time
};

// How a value that a node of a strip reads or writes is cut.
struct Cut {
    int axis = -1;          // -1: it is not, every row reads all of it
    std::int64_t each = 1;  // positions along the axis per row
};

struct Strips {
    std::vector<Strip> strips;                 // in order of the nodes
    std::vector<std::vector<Cut>> cuts;        // per node: its inputs, then its outputs; empty outside strips
    std::vector<std::int64_t> local_elements;  // per buffer: of those that only the strip uses, else 0
};

// Every node for itself: a device has no cache that holds a strip, and fills itself with all rows of a node.
Strips no_strips(const ProgramSpec& spec);
Strips find_strips(const ProgramSpec& spec, const std::vector<std::unique_ptr<Op>>& ops);

}  // namespace tqs
