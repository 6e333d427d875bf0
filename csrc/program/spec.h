// A program as capture hands it over: plain data, per sample (one initial condition), every size static. Python's
// tqs_fast/capture/program.py has the same fields under the same names; its docstrings are the normative text.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "backend/program_kernels.h"
#include "quant/format.h"

namespace tqs {

enum class BufferKind : int { arena = 0, constant = 1, state = 2, input = 3 };

struct BufferSpec {
    BufferKind kind;
    Precision precision;
    std::int64_t elements;  // per sample (of a constant: in all)
    const void* data;       // of a constant, contiguous; else null
};

// A strided view of a buffer, which may move on by `step` elements at every step of a rollout. Negative strides do not
// occur.
struct ValueSpec {
    int buffer;
    std::int64_t offset;
    std::int64_t step;
    std::vector<std::int64_t> sizes;
    std::vector<std::int64_t> strides;
};

// Whether the elements lie in row-major order without gaps.
inline bool is_contiguous(const ValueSpec& value) {
    std::int64_t stride = 1;
    for (std::size_t axis = value.sizes.size(); axis-- > 0; stride *= value.sizes[axis]) {
        if (value.sizes[axis] > 1 && value.strides[axis] != stride) return false;
    }
    return true;
}

struct NodeSpec {
    std::string kind;          // a name of the op registry
    std::vector<int> inputs;   // values; -1 where an optional input is absent
    std::vector<int> outputs;  // values; each the whole of its own arena buffer unless the op says otherwise
    std::map<std::string, std::vector<std::int64_t>> ints;
    std::map<std::string, std::vector<double>> floats;
    std::string origin;  // module path and op, for messages
};

// What a state buffer holds at the next step: the value `next`; with `next` -1 what nodes have written into it; or,
// where `slide` > 0, itself moved on: rows [outer, length, inner] of which `slide` positions leave at the front and
// `next` [outer, slide, inner] joins at the end. Such a buffer has room for `pitch` >= length positions per outer row,
// and is only moved back when it is full.
struct StateSpec {
    int buffer;
    int next;
    std::int64_t slide, outer, length, inner, pitch;
};

struct ProgramSpec {
    std::vector<BufferSpec> buffers;
    std::vector<ValueSpec> values;
    std::vector<NodeSpec> nodes;
    std::vector<PackedView> packed;  // weights in the packed format, which nodes name by their place here
    std::vector<StateSpec> states;   // one per leaf of the state, in order
    std::vector<int> inputs;         // buffers, one per leaf of a driven system's input
    int output;                      // value [block, C] (or [C]) that a step emits
    std::int64_t longest;            // steps that moving views allow; 0: no limit
};

}  // namespace tqs
