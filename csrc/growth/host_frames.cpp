#include "growth/host_frames.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "growth/orthonormalize.h"

namespace tqs {
namespace {

template <class T>
bool all_finite(const T* values, std::int64_t count) {
    return std::all_of(values, values + count, [](T x) { return std::isfinite(x); });
}

}  // namespace

HostFrames::HostFrames(const Program& program, const StretchingTask& task, std::int64_t first, std::int64_t samples)
    : task_(task),
      first_(first),
      samples_(samples),
      size_(state_size(program)),
      frames_(static_cast<std::size_t>(samples * task.directions * size_)),
      staging_(static_cast<std::size_t>(samples * size_)),
      logs_(static_cast<std::size_t>(task.directions)),
      scratch_(static_cast<std::size_t>(orthonormalize_scratch(task.directions))),
      failed_(static_cast<std::size_t>(samples)),
      leaves_(frame_leaves(program)) {
    const double* begin = task.frame + first * task.directions * size_;
    std::copy(begin, begin + frames_.size(), frames_.begin());
}

template <class Body>
void HostFrames::typed(const FrameLeaf& leaf, const Body& body) {
    if (leaf.precision == Precision::float32) {
        body(reinterpret_cast<float*>(staging_.data()), leaf.elements);
    } else {
        body(staging_.data(), leaf.elements);
    }
}

double* HostFrames::row(std::int64_t sample, std::int64_t direction) {
    return frames_.data() + (sample * task_.directions + direction) * size_;
}

void HostFrames::seed(TileRun& tile) {
    for (std::size_t index = 0; index < leaves_.size(); ++index) {
        const FrameLeaf& leaf = leaves_[index];
        typed(leaf, [&]<class T>(T* staging, std::int64_t elements) {
            for (std::int64_t k = 0; k < task_.directions; ++k) {
                for (std::int64_t n = 0; n < samples_; ++n) {
                    const double* from = row(n, k) + leaf.offset;
                    std::transform(from, from + elements, staging + n * elements,
                                   [](double x) { return static_cast<T>(x); });
                }
                tile.set_state(index, 1 + k, staging);
            }
        });
    }
}

void HostFrames::read(const TileRun& tile) {
    for (std::size_t index = 0; index < leaves_.size(); ++index) {
        const FrameLeaf& leaf = leaves_[index];
        typed(leaf, [&]<class T>(T* staging, std::int64_t elements) {
            for (std::int64_t k = 0; k < task_.directions; ++k) {
                tile.get_state(index, 1 + k, staging);
                for (std::int64_t n = 0; n < samples_; ++n) {
                    std::copy_n(staging + n * elements, elements, row(n, k) + leaf.offset);
                }
            }
        });
    }
}

void HostFrames::factor(const TileRun& tile, std::int64_t step, std::int64_t block) {
    read(tile);
    find_diverged(tile, step, block);
    const std::int64_t K = task_.directions;
    for (std::int64_t n = 0; n < samples_; ++n) {
        if (failed_[static_cast<std::size_t>(n)]) continue;
        double& worst = task_.condition[first_ + n];
        if (!all_finite(row(n, 0), K * size_)) {
            worst = std::numeric_limits<double>::infinity();
            fail(n, block);
            continue;
        }
        worst = std::max(worst, orthonormalize(row(n, 0), size_, K, logs_.data(), scratch_.data()));
        double* sums = task_.logs + (block * task_.samples + first_ + n) * K;
        for (std::int64_t k = 0; k < K; ++k) sums[k] += logs_[static_cast<std::size_t>(k)];
    }
}

void HostFrames::find_diverged(const TileRun& tile, std::int64_t step, std::int64_t block) {
    for (std::size_t index = 0; index < leaves_.size(); ++index) {
        tile.get_state(index, 0, staging_.data());
        typed(leaves_[index], [&](const auto* staging, std::int64_t elements) {
            for (std::int64_t n = 0; n < samples_; ++n) {
                if (failed_[static_cast<std::size_t>(n)] || all_finite(staging + n * elements, elements)) continue;
                task_.diverged[first_ + n] = step;
                fail(n, block);
            }
        });
    }
}

void HostFrames::fail(std::int64_t sample, std::int64_t block) {
    failed_[static_cast<std::size_t>(sample)] = 1;
    for (; block < task_.blocks; ++block) {
        std::fill_n(task_.logs + (block * task_.samples + first_ + sample) * task_.directions, task_.directions,
                    std::numeric_limits<double>::quiet_NaN());
    }
}

bool HostFrames::all_failed() const {
    return std::all_of(failed_.begin(), failed_.end(), [](char failed) { return failed != 0; });
}

void HostFrames::write() {
    std::copy(frames_.begin(), frames_.end(), task_.final_frame + first_ * task_.directions * size_);
}

}  // namespace tqs
