#include <pybind11/stl.h>

#include "bindings/running.h"
#include "growth/orthonormalize.h"
#include "growth/stretching.h"

namespace py = pybind11;

namespace tqs {

void bind_growth(py::module_& m) {
    m.def(
        "orthonormalize",
        [](Address frame, std::int64_t size, std::int64_t directions, Address logs) {
            std::vector<double> scratch(static_cast<std::size_t>(orthonormalize_scratch(directions)));
            return orthonormalize(at_address<double>(frame), size, directions, at_address<double>(logs),
                                  scratch.data());
        },
        py::kw_only(), py::arg("frame"), py::arg("size"), py::arg("directions"), py::arg("logs"));
    m.def(
        "run_stretching",
        [](const Program& program, std::int64_t samples, std::int64_t directions, std::int64_t steps,
           std::int64_t interval, std::int64_t blocks, const Addresses& states, const Addresses& inputs,
           std::int64_t input_steps, Address frame, Address logs, Address condition, Address diverged,
           const Addresses& final_states, Address final_frame, int threads, Address stream) {
            const StretchingTask task{.samples = samples,
                                      .directions = directions,
                                      .steps = steps,
                                      .interval = interval,
                                      .blocks = blocks,
                                      .states = pointers<const void*>(states),
                                      .inputs = pointers<const void*>(inputs),
                                      .input_steps = input_steps,
                                      .frame = at_address<const double>(frame),
                                      .logs = at_address<double>(logs),
                                      .condition = at_address<double>(condition),
                                      .diverged = at_address<std::int64_t>(diverged),
                                      .final_states = pointers<void*>(final_states),
                                      .final_frame = at_address<double>(final_frame),
                                      .threads = threads,
                                      .stream = stream};
            interruptible([&] { return run_stretching(program, task, python_interrupts); });
        },
        py::arg("program"), py::kw_only(), py::arg("samples"), py::arg("directions"), py::arg("steps"),
        py::arg("interval"), py::arg("blocks"), py::arg("states"), py::arg("inputs"), py::arg("input_steps"),
        py::arg("frame"), py::arg("logs"), py::arg("condition"), py::arg("diverged"), py::arg("final_states"),
        py::arg("final_frame"), py::arg("threads"), py::arg("stream"));
}

}  // namespace tqs
