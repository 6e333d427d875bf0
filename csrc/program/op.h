// An op: what a node of a program does to the values of one tile. Each family is one file in ops/, which states shape
// rule (constructor), forward and tangent rule.
#pragma once

#include <memory>
#include <span>

#include "backend/device.h"
#include "backend/kernel_table.h"
#include "program/spec.h"

namespace tqs {

// A packed constant (Op::pack). `lanes` null: `shared` for every lane. Else one entry per lane; in a tangent rollout
// entry 0 is the weight and the others its tangents, null for zero.
struct Panels {
    const void* shared = nullptr;
    const void* const* lanes = nullptr;
};

// A product with a constant: `depth` multiply-adds per element of rows of `width`. Width 0: the op is none.
struct ProductShape {
    std::int64_t width = 0, depth = 0;
};

// A node's values during a step. in[i].data is null where an optional input is absent.
struct Frame {
    Extent extent;  // lanes is 1 where everything the node reads is shared
    const ProgramKernels* kernels;
    Device* device;  // null: the kernels are the processor's
    std::span<const Operand> in;
    std::span<const Operand> out;
    Panels panels;  // of the constant that the op packs, if any
    void* scratch;  // scratch_bytes(frame), 64-byte aligned
    // Of the rollout, from 0: on the processor its number, on a device where that is counted. A device records the run.
    std::int64_t step;
    const std::int64_t* clock;
};

class Op {
  public:
    virtual ~Op() = default;

    // Pointers in `frame` are null when this is asked.
    virtual std::int64_t scratch_bytes(const Frame& frame) const = 0;
    virtual void run(const Frame& frame) const = 0;

    virtual ProductShape product() const { return {}; }

    // Index of the input that is a constant and read through Frame::panels only; -1: none. Devices take it as it is.
    virtual int packed_input() const { return -1; }
    virtual std::int64_t packed_bytes(const ProgramKernels&) const { return 0; }
    // `constant` is contiguous, of the value's sizes and precision.
    virtual void pack(const ProgramKernels&, const void* constant, void* panels) const;

    // Whether the op may run on some positions of an axis of its outputs alone: those positions of the inputs that
    // follow the outputs' axes (or have size 1) are all it reads then. Frames may hold cut operands if so.
    virtual bool separable(int) const { return false; }
    virtual bool follows(int) const { return true; }
};

// A packed weight and its form for the place that the program runs at.
struct PlacedWeight {
    PackedView weight;
    const std::uint8_t* panels;
};

// What values that are stored so are computed in.
static constexpr Precision computed_in(Precision stored) {
    return stored == Precision::float64 ? Precision::float64 : Precision::float32;
}

// What a factory is given: the node and the values it reads and writes (null where absent).
struct OpContext {
    const NodeSpec& node;
    std::span<const ValueSpec* const> inputs;
    std::span<const ValueSpec* const> outputs;
    std::span<const Precision> input_precisions;
    std::span<const Precision> output_precisions;
    std::span<const PlacedWeight> packed;  // as ProgramSpec::packed; outlives the op

    // Attributes; throw ArgumentError naming node.origin where missing (or return `otherwise`).
    std::int64_t integer(const char* name) const;
    std::int64_t integer(const char* name, std::int64_t otherwise) const;
    std::span<const std::int64_t> integers(const char* name) const;
    std::span<const double> numbers(const char* name) const;
    double number(const char* name, double otherwise) const;
    // Throws ArgumentError("[kind] origin: text") unless `holds`.
    void require(bool holds, const char* text) const;
};

// Throws ArgumentError for an unknown kind or values that do not fit the op's shape rule.
std::unique_ptr<Op> make_op(const OpContext& context);
// Names of all ops, sorted.
std::span<const char* const> list_ops();

}  // namespace tqs
