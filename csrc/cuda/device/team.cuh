// Threads that compute one row (or one output of a reduction) together, in one of three shapes. Which one is taken
// depends on the sizes and strides within a sample only, and a team adds up in a fixed order, so that neither the grid
// nor the samples beside it change a bit.
//
//     warp     32 members, side by side along the row      4 teams per block
//     block    256 members, side by side along the row     1 team
//     columns  8 members of 32 teams: side by side are teams, which read adjacent outputs' elements
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/device/instructions.cuh"

namespace tqs::cuda {

enum class Shape { warp, block, columns };

static constexpr int team_threads(Shape shape) {  // of a block
    return shape == Shape::warp ? 128 : 256;
}
static constexpr int teams_per_block(Shape shape) {
    return shape == Shape::warp ? 4 : shape == Shape::block ? 1 : 32;
}
// Shared memory that `all` takes for values of at most 16 bytes.
static constexpr int team_bytes(Shape shape) {
    return shape == Shape::warp ? 0 : shape == Shape::block ? 8 * 16 : 256 * 16;
}

// A value of whole words, each word by `shuffle`.
template <class T, class Shuffle>
__device__ inline T by_words(const T& value, const Shuffle& shuffle) {
    int words[sizeof(T) / 4];
    std::memcpy(words, &value, sizeof(T));
    for (int& word : words) word = shuffle(word);
    T result;
    std::memcpy(&result, words, sizeof(T));
    return result;
}
// From the lane whose number differs in the bits of `mask`, or from lane `lane`; all lanes of the warp call.
template <class T>
__device__ inline T exchange(const T& value, int mask) {
    return by_words(value, [mask](int word) { return shuffle_xor(word, mask); });
}
template <class T>
__device__ inline T from_lane(const T& value, int lane) {
    return by_words(value, [lane](int word) { return shuffle_from(word, lane); });
}

template <Shape shape>
struct Team {
    static constexpr int kMembers = shape == Shape::warp ? 32 : shape == Shape::block ? 256 : 8;

    int member;
    std::uint32_t number;  // of the team, in the x direction of the grid

    __device__ Team() {
        const auto thread = static_cast<int>(threadIdx.x);
        if constexpr (shape == Shape::columns) {
            member = thread / 32;
            number = blockIdx.x * 32 + static_cast<std::uint32_t>(thread % 32);
        } else {
            member = thread % kMembers;
            number = blockIdx.x * teams_per_block(shape) + static_cast<std::uint32_t>(thread / kMembers);
        }
    }

    // What all members' values come to by `combine`, associative and commutative; all members call and all have it.
    // `shared` holds team_bytes(shape) bytes.
    template <class T, class F>
    __device__ T all(T value, [[maybe_unused]] unsigned char* shared, const F& combine) const {
        const auto thread = static_cast<int>(threadIdx.x);
        auto* values = reinterpret_cast<T*>(shared);
        if constexpr (shape != Shape::columns) {
            for (int mask = 1; mask < 32; mask *= 2) value = combine(value, exchange(value, mask));
        }
        if constexpr (shape == Shape::block) {
            if (thread % 32 == 0) values[thread / 32] = value;
            block_barrier();
            value = values[0];
            for (int warp = 1; warp < kMembers / 32; ++warp) value = combine(value, values[warp]);
            block_barrier();
        }
        if constexpr (shape == Shape::columns) {
            values[thread] = value;
            block_barrier();
            value = values[thread % 32];
            for (int other = 1; other < kMembers; ++other) value = combine(value, values[32 * other + thread % 32]);
            block_barrier();
        }
        return value;
    }
};

// A sum of one member's terms, by chunks of 64 that are then added up: |error| <= (64 + terms / 64) u sum |terms|.
template <class T>
class ChunkedSum {
  public:
    __device__ void add(T term) {
        partial_ += term;
        if (++count_ % 64 == 0) {
            total_ += partial_;
            partial_ = T(0);
        }
    }
    __device__ T value() const { return total_ + partial_; }

  private:
    T total_ = T(0), partial_ = T(0);
    int count_ = 0;
};

struct Plus {
    template <class T>
    __device__ T operator()(T a, T b) const {
        return a + b;
    }
};

// An element chosen among others: of all, NaN wins, then the largest (with sign -1 the smallest), then the first.
template <class T>
struct Choice {
    T value;
    std::int32_t position;  // negative: none yet
    std::int32_t unused = 0;
};
template <class T>
struct First {
    T sign;
    __device__ bool before(const Choice<T>& a, const Choice<T>& b) const {
        if (a.position < 0 || b.position < 0) return b.position < 0;
        const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
        if (a_nan != b_nan) return a_nan;
        if (a_nan || a.value == b.value) return a.position < b.position;
        return a.value * sign > b.value * sign;
    }
    __device__ Choice<T> operator()(const Choice<T>& a, const Choice<T>& b) const { return before(a, b) ? a : b; }
};

}  // namespace tqs::cuda
