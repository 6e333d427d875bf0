// Where values of programs live and are computed: this process and its processor, or a device with memory of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "backend/program_kernels.h"

namespace tqs {

using PlaceBytes = std::unique_ptr<char[], std::function<void(char*)>>;

class Device;  // backend/device.h

class Place {
  public:
    virtual ~Place() = default;

    virtual const ProgramKernels& kernels() const = 0;
    // Null: this is the processor.
    virtual Device* device() { return nullptr; }

    // Uninitialised and 64-byte aligned. Throws where there is not so much.
    virtual PlaceBytes allocate(std::int64_t bytes) = 0;
    // `rows` of `width` bytes each, `pitch` bytes from one to the next; width and pitches may be 0. The other end lies
    // here or in the memory of this process. `read` is done when it returns, and what was written before it. `from` may
    // change once `write` returns, unless it is page-locked: then when it is done.
    virtual void write(char* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch, std::int64_t width,
                       std::int64_t rows) = 0;
    virtual void read(void* to, std::int64_t to_pitch, const char* from, std::int64_t from_pitch, std::int64_t width,
                      std::int64_t rows) = 0;
    // Kernels of this place run within it.
    virtual void within(const std::function<void()>& work) = 0;
};

// The processor, with the kernels in use (backend/backend.h). Any number of threads may use it.
Place& host();

}  // namespace tqs
