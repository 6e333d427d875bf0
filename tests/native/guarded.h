// Memory of exactly the promised size. AddressSanitizer sees an access behind it. It does not watch masked vector
// instructions: what those write there is found when the memory is given back.
#pragma once

#include <sanitizer/asan_interface.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

class Guarded {
  public:
    explicit Guarded(std::int64_t size)
        : size_(static_cast<std::size_t>(size)), bytes_(new unsigned char[size_ + kGuard]) {
        std::memset(bytes_.get() + size_, kMark, kGuard);
        ASAN_POISON_MEMORY_REGION(bytes_.get() + size_, kGuard);
    }
    Guarded(Guarded&&) = default;
    ~Guarded() {
        if (!bytes_) return;
        ASAN_UNPOISON_MEMORY_REGION(bytes_.get() + size_, kGuard);
        for (std::size_t i = size_; i < size_ + kGuard; ++i) {
            if (bytes_[i] == kMark) continue;
            std::printf("written behind a block of %zu bytes, at %zu\n", size_, i);
            std::fflush(stdout);
            std::abort();
        }
    }
    unsigned char* data() const { return bytes_.get(); }

  private:
    static constexpr std::size_t kGuard = 64;
    static constexpr unsigned char kMark = 0xA5;
    std::size_t size_;
    std::unique_ptr<unsigned char[]> bytes_;
};
