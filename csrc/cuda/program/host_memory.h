// Memory of this process, and how it gets to the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "backend/device.h"

namespace tqs::cuda {

// Of any memory of this process, enqueued: where some of its pages are locked, too (page_lock in backend/device.h).
void copy_to_device(char* to, const void* from, std::int64_t bytes, cudaStream_t stream);

// Copies on a stream of their own, beside the work on `work`.
std::unique_ptr<Feed> open_feed(int device, cudaStream_t work, int numbers);

}  // namespace tqs::cuda
