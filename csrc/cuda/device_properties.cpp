#include "cuda/device_properties.h"

#include <map>
#include <mutex>

#include "cuda/check.h"
#include "cuda/kernels.h"

namespace tqs::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, which, device), "qgemm", "cudaDeviceGetAttribute");
    return value;
}

Device ask(int device) {
    const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
    return {.multiprocessors = multiprocessors,
            .shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            .shared_per_multiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            .bytes_per_cycle = bytes_per_cycle(attribute(cudaDevAttrGlobalMemoryBusWidth, device),
                                               attribute(cudaDevAttrMemoryClockRate, device),
                                               attribute(cudaDevAttrClockRate, device)) /
                               multiprocessors,
            .warpgroups = has_warpgroups() && attribute(cudaDevAttrComputeCapabilityMajor, device) == 9};
}

}  // namespace

double bytes_per_cycle(int bus_bits, int memory_clock, int clock) {
    constexpr double kUnknown = 2000;  // an A100 has 1100, an H200 2500
    if (bus_bits <= 0 || memory_clock <= 0 || clock <= 0) return kUnknown;
    return 2.0 * bus_bits / 8 * memory_clock / clock;  // two transfers per clock and pin
}

Device properties_of(int device) {
    static std::mutex mutex;
    static std::map<int, Device> known;
    const std::scoped_lock lock(mutex);
    const auto found = known.find(device);
    if (found != known.end()) return found->second;
    return known.emplace(device, ask(device)).first->second;
}

int shared_limit() {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "launch", "cudaGetDevice");
    return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

bool launches_overlap(int device) {
    constexpr int kDriver = 12030;
    int driver = 0;
    check_cuda(cudaDriverGetVersion(&driver), "engine", "cudaDriverGetVersion");
    return properties_of(device).warpgroups && driver >= kDriver;
}

}  // namespace tqs::cuda
