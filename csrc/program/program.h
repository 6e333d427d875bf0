// A program: one step of a system, ready to run. Immutable, shared by all tiles of all rollouts.
#pragma once

#include <memory>
#include <vector>

#include "backend/kernel_table.h"
#include "core/aligned.h"
#include "program/arena.h"
#include "program/strips.h"
#include "quant/prepared.h"

namespace tqs {

class Program {
  public:
    // Checks every index and every view, makes the ops and packs the constants for the instruction set in use.
    // Constants stay where they are: the caller keeps them alive. `device` >= 0: the program runs on that GPU, where
    // its packed weights already are, and its constants, unless they are `here`, in the memory of this process: a
    // rollout then brings them (rollout/residence.h). Throws ArgumentError, Error.
    explicit Program(ProgramSpec spec, int device = kHost, bool here = false);

    static constexpr int kHost = -1;

    // Whether it runs on a device and its constants lie in the memory of this process.
    bool constants_here() const { return here_; }

    const ProgramSpec& spec() const { return spec_; }
    int device() const { return device_; }
    // Where a rollout runs, after what the caller has enqueued on `stream`. One per rollout and thread of a device.
    std::shared_ptr<Place> place(std::uintptr_t stream = 0) const;
    const ProgramKernels& kernels() const { return *kernels_; }
    const Op& op(std::size_t node) const { return *ops_[node]; }
    // Bytes of the prepacked weights.
    std::int64_t packed_bytes() const { return packed_bytes_; }
    // The constant that the node packs: its buffer; -1: none.
    int packed_constant(std::size_t node) const;
    // Of that constant (on a device: its data); null if there is none.
    const void* panels(std::size_t node) const { return panels_[node]; }
    // Byte offset of an arena buffer, per (lane, sample): multiply by their number.
    std::int64_t arena_offset(int buffer) const { return offsets_[static_cast<std::size_t>(buffer)]; }
    // Bytes per (lane, sample).
    std::int64_t arena_bytes() const { return arena_bytes_; }
    std::int64_t state_bytes() const;
    const Strips& strips() const { return strips_; }
    // Elements per sample that a buffer has room for: fewer than it has where only a strip uses it.
    std::int64_t room(int buffer) const {
        const std::int64_t local = strips_.local_elements[static_cast<std::size_t>(buffer)];
        return local > 0 ? local : spec_.buffers[static_cast<std::size_t>(buffer)].elements;
    }
    // Rows per sample of the costliest product with a constant: with few, tiles need many samples to fill a GEMM.
    std::int64_t product_rows() const;

    const BufferSpec& buffer_of(int value) const {
        return spec_.buffers[static_cast<std::size_t>(spec_.values[static_cast<std::size_t>(value)].buffer)];
    }

  private:
    void prepack_weights();
    bool is_kept(int buffer) const;
    void check_indices() const;
    void check_views() const;
    void make_ops();
    void plan();

    ProgramSpec spec_;
    int device_;
    bool here_;
    const ProgramKernels* kernels_;
    std::vector<PlacedWeight> packed_;  // read by the ops
    std::vector<std::unique_ptr<Prepared>> prepared_;
    std::unique_ptr<Device> keeper_;  // of the prepacked weights on a device
    std::vector<PlaceBytes> placed_;
    std::vector<std::unique_ptr<Op>> ops_;
    std::vector<AlignedBytes> packed_constants_;
    std::vector<const void*> panels_;
    Strips strips_;
    std::vector<std::int64_t> offsets_;
    std::int64_t arena_bytes_ = 0, packed_bytes_ = 0;
};

}  // namespace tqs
