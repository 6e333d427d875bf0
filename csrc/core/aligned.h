// Uninitialised memory on a 64-byte boundary: one cache line, one AVX-512 register.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace tqs {

struct FreeAligned {
    void operator()(std::uint8_t* bytes) const { std::free(bytes); }
};
using AlignedBytes = std::unique_ptr<std::uint8_t[], FreeAligned>;

// From a few megabytes on in huge pages where the system grants them: with pages of 4 KiB a weight that is read once
// from memory waits for the translation of every one.
AlignedBytes allocate_aligned(std::int64_t bytes);

}  // namespace tqs
