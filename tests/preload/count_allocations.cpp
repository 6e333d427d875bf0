// Preloaded into a process (LD_PRELOAD, glibc): counts what asks for memory. `allocations_so_far` reads the count.
#include <atomic>
#include <cerrno>
#include <cstddef>

extern "C" {

void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

static std::atomic<unsigned long> count{0};

unsigned long allocations_so_far() {
    return count.load();
}

void* malloc(std::size_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_malloc(size);
}

void* calloc(std::size_t items, std::size_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_calloc(items, size);
}

void* realloc(void* block, std::size_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_realloc(block, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    *block = __libc_memalign(alignment, size);
    return *block ? 0 : ENOMEM;
}
}
