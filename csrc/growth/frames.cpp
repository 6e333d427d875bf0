#include "growth/frames.h"

#include "core/check.h"
#include "growth/device_frames.h"
#include "growth/host_frames.h"

namespace tqs {
namespace {

// Null: frames are factored on the processor.
Device* device_for(const StretchingTask& task, Place& place, std::int64_t size) {
    Device* const device = place.device();
    return device && device->stretch_scratch(1, task.directions, size) >= 0 ? device : nullptr;
}

}  // namespace

std::vector<FrameLeaf> frame_leaves(const Program& program) {
    std::vector<FrameLeaf> leaves;
    std::int64_t offset = 0;
    for (const StateSpec& state : program.spec().states) {
        const BufferSpec& buffer = program.spec().buffers[static_cast<std::size_t>(state.buffer)];
        require(precision_bytes(buffer.precision) > 2, "growth",
                "expected states of float32 or float64, got 16 bits; use precision=\"float64\"");
        const std::int64_t elements = state.slide > 0 ? state.outer * state.length * state.inner : buffer.elements;
        leaves.push_back({buffer.precision, elements, offset});
        offset += elements;
    }
    return leaves;
}

std::int64_t state_size(const Program& program) {
    std::int64_t size = 0;
    for (const FrameLeaf& leaf : frame_leaves(program)) size += leaf.elements;
    return size;
}

std::unique_ptr<Frames> make_frames(const Program& program, const StretchingTask& task, Place& place,
                                    std::int64_t first, std::int64_t samples) {
    if (Device* const device = device_for(task, place, state_size(program))) {
        return std::make_unique<DeviceFrames>(program, task, *device, first, samples);
    }
    return std::make_unique<HostFrames>(program, task, first, samples);
}

std::int64_t frame_bytes(const Program& program, const StretchingTask& task, Place& place) {
    Device* const device = device_for(task, place, state_size(program));
    return device ? DeviceFrames::bytes(program, task, *device) : 0;
}

}  // namespace tqs
