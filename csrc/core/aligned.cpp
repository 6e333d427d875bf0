#include "core/aligned.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <new>

namespace tqs {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

AlignedBytes allocate_aligned(std::int64_t bytes) {
    const auto wanted = static_cast<std::size_t>(bytes);
    const std::size_t alignment = wanted >= 2 * kHugePage ? kHugePage : kCacheLine;
    // std::aligned_alloc takes whole multiples of the alignment.
    const std::size_t size = (wanted + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, size);
    if (!memory && size > 0) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);  // a hint: what it answers does not matter
#endif
    return AlignedBytes(static_cast<std::uint8_t*>(memory));
}

}  // namespace tqs
