// What the bindings of long-running functions share: address lists, and Ctrl-C while the GIL is free.
#pragma once

#include <vector>

#include "bindings/bindings.h"
#include "rollout/schedule.h"

namespace tqs {

using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

template <class T>
std::vector<T> pointers(const Addresses& addresses) {
    std::vector<T> result;
    for (const Address address : addresses) result.push_back(reinterpret_cast<T>(address));
    return result;
}

// Lets Python see signals from the thread that asked for a rollout. A Ctrl-C leaves KeyboardInterrupt pending there.
inline bool python_interrupts() {
    const pybind11::gil_scoped_acquire locked;
    return PyErr_CheckSignals() != 0;
}

template <class Run>
auto interruptible(const Run& run) {
    try {
        const pybind11::gil_scoped_release unlocked;
        return run();
    } catch (const Interrupted&) {
        throw pybind11::error_already_set();
    }
}

}  // namespace tqs
