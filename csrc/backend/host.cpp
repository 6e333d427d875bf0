#include <cstring>

#include "backend/backend.h"
#include "backend/place.h"
#include "core/aligned.h"

namespace tqs {
namespace {

class Host : public Place {
  public:
    const ProgramKernels& kernels() const override { return active_table().program; }

    PlaceBytes allocate(std::int64_t bytes) override {
        return PlaceBytes(reinterpret_cast<char*>(allocate_aligned(bytes).release()),
                          [](char* memory) { std::free(memory); });
    }

    void write(char* to, std::int64_t to_pitch, const void* from, std::int64_t from_pitch, std::int64_t width,
               std::int64_t rows) override {
        const char* source = static_cast<const char*>(from);
        for (std::int64_t row = 0; row < rows; ++row) {
            std::memcpy(to + row * to_pitch, source + row * from_pitch, static_cast<std::size_t>(width));
        }
    }

    void read(void* to, std::int64_t to_pitch, const char* from, std::int64_t from_pitch, std::int64_t width,
              std::int64_t rows) override {
        write(static_cast<char*>(to), to_pitch, from, from_pitch, width, rows);
    }

    void within(const std::function<void()>& work) override { work(); }
};

}  // namespace

Place& host() {
    static Host place;
    return place;
}

}  // namespace tqs
