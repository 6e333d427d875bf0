// Where and how an operand of wgmma lies in shared memory, as the instruction is told: for the device and for the
// emulator, which takes it apart again.
#pragma once

#include <cstdint>

namespace tqs::cuda {

// With the 128-byte swizzle, whose atoms begin at multiples of 1024 bytes (a base offset of 0). `leading` and `stride`
// in bytes, below 2^18. PTX ISA, "Matrix descriptor", and CUTLASS's GmmaDescriptor: bits 0-13 shared address / 16,
// 16-29 leading byte offset / 16, 32-45 stride byte offset / 16, 49-51 base offset, 62-63 the swizzle, 1 for 128 bytes.
constexpr std::uint64_t matrix_descriptor(std::uint32_t address, int leading, int stride) {
    return std::uint64_t{1} << 62 | static_cast<std::uint64_t>(stride / 16) << 32 |
           static_cast<std::uint64_t>(leading / 16) << 16 | (address & 0x3FFFFu) >> 4;
}

}  // namespace tqs::cuda
