// A tensor as a tile of a rollout sees it: some lanes and some samples of it.
#pragma once

#include <cstdint>

namespace tqs {

// How values are stored. Those of 16 bits are computed in float32 and rounded when they are stored, on devices only:
// the processor's tables have nothing for them.
enum class Precision : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };
inline constexpr int kPrecisions = 4;

static constexpr std::int64_t precision_bytes(Precision precision) {
    return precision == Precision::float64 ? 8 : precision == Precision::float32 ? 4 : 2;
}

inline constexpr int kMaxRank = 8;

// A tensor as a tile sees it: [lanes, samples, sizes[0], ..., sizes[rank - 1]]. Strides count elements; 0 broadcasts.
struct Operand {
    Precision precision;
    int rank;
    std::int64_t sizes[kMaxRank];
    std::int64_t strides[kMaxRank];
    std::int64_t sample_stride;  // 0: the same for all samples (a constant)
    std::int64_t lane_stride;    // 0: shared, the same for all lanes; in a tangent rollout its tangent is zero
    void* data;                  // of lane 0, sample 0
    // Null, or where each lane's data are (a constant with variants; `lane_stride` is then unused). In a tangent
    // rollout entry 0 is the constant and the others its tangents, null for zero.
    void* const* lanes;
};

static inline bool is_shared(const Operand& operand) {
    return !operand.lanes && operand.lane_stride == 0;
}

// Where lane `lane`, sample 0 begins. In a tangent rollout, null for a tangent that is zero.
template <class T>
static inline T* lane_data(const Operand& operand, std::int64_t lane, bool tangent) {
    if (operand.lanes) return static_cast<T*>(operand.lanes[lane]);
    if (tangent && lane > 0 && operand.lane_stride == 0) return nullptr;
    return static_cast<T*>(operand.data) + lane * operand.lane_stride;
}

struct Extent {
    std::int64_t lanes;
    std::int64_t samples;
    bool tangent;
};

}  // namespace tqs
