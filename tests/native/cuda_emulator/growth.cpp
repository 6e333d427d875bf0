// Frames orthonormalised on the device, emulated: what tests/test_cuda_growth.py calls.
#include <exception>
#include <string>

#include "cuda/program/context.h"
#include "cuda/program/stretching.h"

using namespace tqs;
using namespace tqs::cuda;

namespace {

std::string problem;

}  // namespace

extern "C" {

std::int64_t emulated_stretch_scratch(std::int64_t samples, std::int64_t directions, std::int64_t size) {
    return stretch_scratch(samples, directions, size);
}

// Arrays as in StretchTask; `times` are step, block and blocks.
const char* emulated_stretch(std::int64_t samples, std::int64_t directions, std::int64_t size,
                             const std::int64_t* times, double* frames, void* scratch, double* logs, double* condition,
                             std::int64_t* diverged, int* failed) {
    try {
        Context own(nullptr, false);
        const ContextScope scope(own);
        stretch_frames({.samples = samples,
                        .directions = directions,
                        .size = size,
                        .frames = frames,
                        .scratch = scratch,
                        .step = times[0],
                        .block = times[1],
                        .blocks = times[2],
                        .logs = logs,
                        .condition = condition,
                        .diverged = diverged,
                        .failed = failed});
        return nullptr;
    } catch (const std::exception& error) {
        problem = error.what();
        return problem.c_str();
    }
}
}
