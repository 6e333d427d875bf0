// Kernels that treat the last axes of a tensor as rows, a team each.
//
// A member of a team takes `vector` adjacent elements, then those that lie vector * members further on, ... Rows that
// lie in memory as vectors do are loaded so, once, and held in registers from pass to pass (`rounds` vectors a member);
// all others are read one by one in every pass. The order, and with it every bit, follows from the length alone.
#pragma once

#include "cuda/device/loops.cuh"
#include "cuda/device/team.cuh"
#include "cuda/device/vectors.cuh"

namespace tqs::cuda {

// Elements that a member takes side by side: two loads of 16 bytes, or one of elements of 16 bits. Nothing large is
// computed in float64, whose rows are read one by one.
template <class T>
inline constexpr int kRowVector = sizeof(T) == 4 ? 8 : 1;
// Vectors of a row that a member holds, at most: 32 registers, and as many for a tangent.
inline constexpr int kMostRounds = 4;
// Rows of at most so many elements are a warp's, longer ones a block's.
template <class T>
inline constexpr std::int64_t kWarpRow = sizeof(T) == 4 ? 32 * kRowVector<T> * kMostRounds : 512;
// What a block that does not hold its row keeps of it in shared memory between passes, at most.
inline constexpr std::int64_t kKeptRow = 4096;

// Operand 0 is x, operand 1 out.
struct RowArgument {
    Loops<2> rows, elements;
    Lanes x, out;
    bool tangent, kept;
    std::uint32_t vector;  // 1 where a row has no vector for each lane of a warp
    std::int64_t lanes, tangents_each;
};

// An element of a row: its number, and where its member has it: slot `slot` of shared memory, or values[round][at].
struct Place {
    std::uint32_t element, slot;
    int round, at;
};

// One row, of which a member holds `rounds` vectors.
template <class T, Shape shape, int rounds>
class Row {
  public:
    static constexpr int kVector = kRowVector<T>;
    static constexpr std::uint32_t kStep = kVector * Team<shape>::kMembers;

    struct Values {
        T values[rounds][kVector];
        __device__ T operator()(const Place& place) const { return values[place.round][place.at]; }
    };

    __device__ Row(const RowArgument& argument, const Team<shape>& team)
        : a_(argument),
          x_(argument.rows.offset(0, team.number)),
          out_(argument.rows.offset(1, team.number)),
          first_(static_cast<std::uint32_t>(team.member) * kVector) {}

    // All loads are under way before the first is waited for. Where a member has less than `rounds` vectors it reads
    // its first (or the row's) again.
    __device__ Values read(char* data) const {
        Values result;
        as_stored<T>(data, a_.x.precision, [&](const auto* stored) {
#pragma unroll
            for (int round = 0; round < rounds; ++round) {
                const std::uint32_t first = first_ + round * kStep;
                load_vectors(stored + x_ + (first < a_.elements.count ? first : 0), result.values[round]);
            }
        });
        return result;
    }
    // Calls body(place) for this member's elements.
    template <class Body>
    __device__ void each(const Body& body) const {
#pragma unroll
        for (int round = 0; round < rounds; ++round) {
            if (first_ + round * kStep >= a_.elements.count) break;
#pragma unroll
            for (int at = 0; at < kVector; ++at) body(Place{first_ + round * kStep + at, 0, round, at});
        }
    }
    // This member's part of a sum over the row: as ChunkedSum, of which it is one chunk.
    template <class Term>
    __device__ T sum(const Term& term) const {
        static_assert(rounds * kVector <= 64);
        T sum = T(0);
        each([&](const Place& place) { sum += term(place); });
        return sum;
    }
    template <class Value>
    __device__ void write(char* data, const Value& value) const {
#pragma unroll
        for (int round = 0; round < rounds; ++round) {
            const std::uint32_t first = first_ + round * kStep;
            if (first >= a_.elements.count) break;
            T values[kVector];
#pragma unroll
            for (int at = 0; at < kVector; ++at) values[at] = value(Place{first + at, 0, round, at});
            as_stored<T>(data, a_.out.precision, [&](auto* stored) { store_vectors(stored + out_ + first, values); });
        }
    }

    // What later passes and the tangents need of each element.
    __device__ static constexpr bool keeps() { return true; }
    __device__ void keep(const Place& place, T value) { kept_.values[place.round][place.at] = value; }
    __device__ T kept(const Place& place) const { return kept_(place); }

  private:
    const RowArgument& a_;
    std::int64_t x_, out_;
    std::uint32_t first_;
    Values kept_;
};

// One row, element by element.
template <class T, Shape shape>
class Row<T, shape, 0> {
  public:
    struct Values {
        const Row* row;
        const char* data;
        __device__ T operator()(const Place& place) const {
            return load<T>(data, row->a_.x.precision, row->x_ + row->a_.elements.offset(0, place.element));
        }
    };

    __device__ Row(const RowArgument& argument, const Team<shape>& team)
        : a_(argument),
          x_(argument.rows.offset(0, team.number)),
          out_(argument.rows.offset(1, team.number)),
          member_(static_cast<std::uint32_t>(team.member)) {
        const std::uint32_t step = argument.vector * Team<shape>::kMembers;
        const std::uint32_t slots = (argument.elements.count + step - 1) / step * step;
        const int of = shape == Shape::warp ? static_cast<int>(threadIdx.x) / 32 : 0;
        kept_ = reinterpret_cast<T*>(shared_memory() + team_bytes(shape)) + of * static_cast<int>(slots);
    }

    __device__ Values read(const char* data) const { return {this, data}; }
    template <class Body>
    __device__ void each(const Body& body) const {
        const std::uint32_t step = a_.vector * Team<shape>::kMembers;
        for (std::uint32_t start = 0; start < a_.elements.count; start += step) {
            for (std::uint32_t at = 0; at < a_.vector; ++at) {
                const std::uint32_t element = start + member_ * a_.vector + at;
                if (element < a_.elements.count)
                    body(Place{element, start + at * Team<shape>::kMembers + member_, 0, 0});
            }
        }
    }
    template <class Term>
    __device__ T sum(const Term& term) const {
        ChunkedSum<T> sum;
        each([&](const Place& place) { sum.add(term(place)); });
        return sum.value();
    }
    template <class Value>
    __device__ void write(char* data, const Value& value) const {
        each([&](const Place& place) {
            store(data, a_.out.precision, out_ + a_.elements.offset(1, place.element), value(place));
        });
    }

    __device__ bool keeps() const { return a_.kept; }
    __device__ void keep(const Place& place, T value) {
        if (a_.kept) kept_[place.slot] = value;
    }
    __device__ T kept(const Place& place) const { return kept_[place.slot]; }

  private:
    const RowArgument& a_;
    std::int64_t x_, out_;
    std::uint32_t member_;
    T* kept_;
};

// Calls primal(lane, write) and, in a tangent rollout, then tangent(lane) for this block's lanes.
template <class Primal, class Tangent>
__device__ inline void for_lanes(const RowArgument& a, const Primal& primal, const Tangent& tangent) {
    if (!a.tangent) {
        for (std::int64_t lane = blockIdx.y; lane < a.lanes; lane += gridDim.y) primal(lane, true);
        return;
    }
    primal(0, blockIdx.y == 0);
    const std::int64_t begin = 1 + blockIdx.y * a.tangents_each, end = begin + a.tangents_each;
    for (std::int64_t lane = begin; lane < end && lane < a.lanes; ++lane) tangent(lane);
}

}  // namespace tqs::cuda
