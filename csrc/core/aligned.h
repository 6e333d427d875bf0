// Uninitialised memory on a 64-byte boundary: one cache line, one AVX-512 register.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace tqs {

inline constexpr std::align_val_t kAlignment{64};

struct FreeAligned {
    void operator()(std::uint8_t* bytes) const { ::operator delete[](bytes, kAlignment); }
};
using AlignedBytes = std::unique_ptr<std::uint8_t[], FreeAligned>;

inline AlignedBytes allocate_aligned(std::int64_t bytes) {
    return AlignedBytes(static_cast<std::uint8_t*>(::operator new[](static_cast<std::size_t>(bytes), kAlignment)));
}

}  // namespace tqs
