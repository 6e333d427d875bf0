// Where a step first stops being finite.
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "rollout/tile_nodes.h"

namespace tqs {
namespace {

std::uint16_t load_as_bits(const char* element) {
    std::uint16_t bits;
    std::memcpy(&bits, element, sizeof bits);
    return bits;
}

template <class T>
double load_as(const char* element) {
    T value;
    std::memcpy(&value, element, sizeof value);
    return static_cast<double>(value);
}

double load(const char* element, Precision precision) {
    switch (precision) {
        case Precision::float32:
            return load_as<float>(element);
        case Precision::float64:
            return load_as<double>(element);
        case Precision::bfloat16:
            return static_cast<double>(bfloat16_to_float(load_as_bits(element)));
        default:
            return static_cast<double>(float16_to_float(load_as_bits(element)));
    }
}

// Calls body(element pointer) for every element of lane `lane`, sample `sample`.
template <class Body>
void for_each_element(const Operand& x, std::int64_t lane, std::int64_t sample, const Body& body) {
    const std::int64_t item = precision_bytes(x.precision);
    const char* base = static_cast<const char*>(x.lanes ? x.lanes[lane] : x.data);
    if (!base) return;
    base += ((x.lanes ? 0 : lane * x.lane_stride) + sample * x.sample_stride) * item;
    std::int64_t index[kMaxRank] = {};
    for (;;) {
        std::int64_t offset = 0;
        for (int axis = 0; axis < x.rank; ++axis) offset += index[axis] * x.strides[axis];
        if (!body(base + offset * item)) return;
        int axis = x.rank - 1;
        while (axis >= 0 && ++index[axis] == x.sizes[axis]) index[axis--] = 0;
        if (axis < 0) return;
    }
}

// An operand of the device with its data in `memory`.
Operand mirror(Place& place, const Operand& x, const Extent& extent, std::vector<char>& memory) {
    std::int64_t last = (extent.lanes - 1) * x.lane_stride + (extent.samples - 1) * x.sample_stride;
    for (int axis = 0; axis < x.rank; ++axis) last += (x.sizes[axis] - 1) * x.strides[axis];
    memory.resize(static_cast<std::size_t>((last + 1) * precision_bytes(x.precision)));
    place.read(memory.data(), 0, static_cast<const char*>(x.data), 0, static_cast<std::int64_t>(memory.size()), 1);
    Operand result = x;
    result.data = memory.data();
    return result;
}

}  // namespace

std::unique_ptr<NonFinite> Tile::find_non_finite(std::int64_t t) {
    Regime& regime = regime_of(t);
    // Infinities are legitimate inside a step (a masked score); a NaN hardly ever is. The first NaN counts before any
    // infinity.
    std::unique_ptr<NonFinite> infinite, invalid;
    // A strip comes to its nodes again and again: the earliest node counts.
    const auto note = [](std::unique_ptr<NonFinite>& found, const NonFinite& here) {
        if (!found || here.node < found->node) found = std::make_unique<NonFinite>(here);
    };
    std::vector<char> memory;
    const auto inspect = [&](const Operand& out, int node, const Extent& extent) {
        const Operand x = place_->device() ? mirror(*place_, out, extent, memory) : out;
        for (std::int64_t lane = 0; lane < extent.lanes; ++lane) {
            for (std::int64_t sample = 0; sample < extent.samples; ++sample) {
                for_each_element(x, lane, sample, [&](const char* element) {
                    const double value = load(element, x.precision);
                    if (std::isnan(value)) note(invalid, {node, lane, sample});
                    if (std::isinf(value)) note(infinite, {node, lane, sample});
                    return !std::isnan(value);
                });
            }
        }
    };
    place_->within([&] {
        take_step(regime, t, {}, [&](std::size_t node) {
            const Frame& frame = regime.frames[node];
            for (const Operand& out : frame.out) inspect(out, static_cast<int>(node), frame.extent);
            return !invalid;
        });
    });
    return invalid ? std::move(invalid) : std::move(infinite);
}

}  // namespace tqs
