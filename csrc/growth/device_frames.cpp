#include "growth/device_frames.h"

namespace tqs {
namespace {

constexpr std::int64_t kNumber = sizeof(double);

}  // namespace

std::int64_t DeviceFrames::bytes(const Program& program, const StretchingTask& task, Device& device) {
    const std::int64_t K = task.directions, size = state_size(program);
    const std::int64_t results = task.blocks * K + 3;  // logs; condition, diverged, failed
    return kNumber * ((1 + K) * size + results) + device.stretch_scratch(1, K, size);
}

DeviceFrames::DeviceFrames(const Program& program, const StretchingTask& task, Device& device, std::int64_t first,
                           std::int64_t samples)
    : task_(task), device_(device), first_(first), leaves_(frame_leaves(program)), stretch_{} {
    const std::int64_t N = task.samples, K = task.directions, size = state_size(program);
    stretch_.samples = samples;
    stretch_.directions = K;
    stretch_.size = size;
    stretch_.blocks = task.blocks;
    stretch_.frames = take<double>(samples * (1 + K) * size);
    stretch_.scratch = take<char>(device.stretch_scratch(samples, K, size));
    stretch_.logs = take<double>(task.blocks * samples * K);
    stretch_.condition = take<double>(samples);
    stretch_.diverged = take<std::int64_t>(samples);
    stretch_.failed = take<int>(samples);
    const auto write = [&](auto* to, std::int64_t to_pitch, const auto* from, std::int64_t from_pitch,
                           std::int64_t width, std::int64_t rows) {
        device.write(reinterpret_cast<char*>(to), to_pitch * kNumber, from, from_pitch * kNumber, width * kNumber,
                     rows);
    };
    write(stretch_.frames + size, (1 + K) * size, task.frame + first * K * size, K * size, K * size, samples);
    write(stretch_.logs, samples * K, task.logs + first * K, N * K, samples * K, task.blocks);
    write(stretch_.condition, 0, task.condition + first, 0, samples, 1);
    write(stretch_.diverged, 0, task.diverged + first, 0, samples, 1);
    const std::vector<int> none(static_cast<std::size_t>(samples));
    device.write(reinterpret_cast<char*>(stretch_.failed), 0, none.data(), 0, samples * std::int64_t{sizeof(int)}, 1);
}

template <class T>
T* DeviceFrames::take(std::int64_t count) {
    memory_.push_back(device_.allocate(count * std::int64_t{sizeof(T)}));
    return reinterpret_cast<T*>(memory_.back().get());
}

Operand DeviceFrames::columns(const FrameLeaf& leaf, std::int64_t column) const {
    Operand operand{};
    operand.precision = Precision::float64;
    operand.rank = 1;
    operand.sizes[0] = leaf.elements;
    operand.strides[0] = 1;
    operand.lane_stride = stretch_.size;
    operand.sample_stride = (1 + stretch_.directions) * stretch_.size;
    operand.data = stretch_.frames + column * stretch_.size + leaf.offset;
    return operand;
}

void DeviceFrames::seed(TileRun& tile) {
    for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf) tile.set_tangents(leaf, columns(leaves_[leaf], 1));
}

void DeviceFrames::factor(const TileRun& tile, std::int64_t step, std::int64_t block) {
    for (std::size_t leaf = 0; leaf < leaves_.size(); ++leaf) tile.get_lanes(leaf, columns(leaves_[leaf], 0));
    stretch_.step = step;
    stretch_.block = block;
    device_.within([&] { device_.stretch(stretch_); });
}

void DeviceFrames::write() {
    const std::int64_t N = task_.samples, samples = stretch_.samples, K = stretch_.directions, size = stretch_.size;
    const auto read = [&](auto* to, std::int64_t to_pitch, const auto* from, std::int64_t from_pitch,
                          std::int64_t width, std::int64_t rows) {
        device_.read(to, to_pitch * kNumber, reinterpret_cast<const char*>(from), from_pitch * kNumber, width * kNumber,
                     rows);
    };
    read(task_.final_frame + first_ * K * size, K * size, stretch_.frames + size, (1 + K) * size, K * size, samples);
    read(task_.logs + first_ * K, N * K, stretch_.logs, samples * K, samples * K, stretch_.blocks);
    read(task_.condition + first_, 0, stretch_.condition, 0, samples, 1);
    read(task_.diverged + first_, 0, stretch_.diverged, 0, samples, 1);
}

}  // namespace tqs
