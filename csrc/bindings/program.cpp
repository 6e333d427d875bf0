#include "program/program.h"

#include <pybind11/stl.h>

#include "bindings/running.h"
#include "core/check.h"
#include "rollout/diagnose.h"
#include "rollout/ensemble.h"
#include "rollout/tangent.h"

namespace py = pybind11;

namespace tqs {
namespace {

template <class Enum>
Enum one_of(const py::handle& name, std::initializer_list<const char*> names) {
    const auto text = name.cast<std::string>();
    int index = 0;
    for (const char* candidate : names) {
        if (text == candidate) return static_cast<Enum>(index);
        ++index;
    }
    throw ArgumentError(message("Program", "'", text, "' is not known here"));
}

template <class T>
T field(const py::handle& object, const char* name) {
    return object.attr(name).cast<T>();
}

// tqs_fast.capture.program.Program, field by field; `constants` gives the address of each constant's data, `packed` the
// arrays of its packed weights.
ProgramSpec convert(const py::object& program, const std::map<int, Address>& constants,
                    const std::vector<PackedView>& packed) {
    ProgramSpec spec;
    spec.packed = packed;
    for (const py::handle buffer : program.attr("buffers")) {
        const auto found = constants.find(static_cast<int>(spec.buffers.size()));
        spec.buffers.push_back({
            .kind = one_of<BufferKind>(buffer.attr("kind"), {"arena", "constant", "state", "input"}),
            .precision = one_of<Precision>(buffer.attr("precision"), {"float32", "float64", "bfloat16", "float16"}),
            .elements = field<std::int64_t>(buffer, "elements"),
            .data = found == constants.end() ? nullptr : at_address<const void>(found->second),
        });
    }
    for (const py::handle value : program.attr("values")) {
        spec.values.push_back({
            .buffer = field<int>(value, "buffer"),
            .offset = field<std::int64_t>(value, "offset"),
            .step = field<std::int64_t>(value, "step"),
            .sizes = field<std::vector<std::int64_t>>(value, "sizes"),
            .strides = field<std::vector<std::int64_t>>(value, "strides"),
        });
    }
    for (const py::handle node : program.attr("nodes")) {
        spec.nodes.push_back({
            .kind = field<std::string>(node, "kind"),
            .inputs = field<std::vector<int>>(node, "inputs"),
            .outputs = field<std::vector<int>>(node, "outputs"),
            .ints = field<std::map<std::string, std::vector<std::int64_t>>>(node, "ints"),
            .floats = field<std::map<std::string, std::vector<double>>>(node, "floats"),
            .origin = field<std::string>(node, "origin"),
        });
    }
    for (const py::handle state : program.attr("states")) {
        spec.states.push_back({
            .buffer = field<int>(state, "buffer"),
            .next = field<int>(state, "next"),
            .slide = field<std::int64_t>(state, "slide"),
            .outer = field<std::int64_t>(state, "outer"),
            .length = field<std::int64_t>(state, "length"),
            .inner = field<std::int64_t>(state, "inner"),
            .pitch = field<std::int64_t>(state, "pitch"),
        });
    }
    spec.inputs = field<std::vector<int>>(program, "inputs");
    spec.output = field<int>(program, "output");
    spec.longest = field<std::int64_t>(program, "longest");
    return spec;
}

py::dict describe(const RolloutUse& use) {
    py::dict result;
    result["tile_lanes"] = use.largest.lanes;
    result["tile_samples"] = use.largest.samples;
    result["tile_bytes"] = use.tile_bytes;
    result["predicted_bytes"] = use.predicted;
    result["constant_bytes"] = use.constants;
    result["streamed_bytes"] = use.streamed;
    return result;
}

// Of the caller's memory.
struct PageLock {
    std::shared_ptr<const void> pages;
};

}  // namespace

void bind_program(py::module_& m) {
    py::class_<PageLock>(m, "PageLock")
        .def(py::init([](Address memory, std::int64_t bytes, int device, const py::object&) {
                 return PageLock{cuda::page_lock(at_address<const void>(memory), bytes, device)};
             }),
             // let go before what it locks
             py::keep_alive<1, 5>(), py::arg("memory"), py::kw_only(), py::arg("bytes"), py::arg("device"),
             py::arg("held"));
    py::class_<Program>(m, "Program")
        .def(py::init([](const py::object& program, const std::map<int, Address>& constants,
                         const std::vector<PackedView>& packed, int device, bool constants_here, const py::object&) {
                 return std::make_unique<Program>(convert(program, constants, packed), device, constants_here);
             }),
             py::keep_alive<1, 7>(), py::arg("program"), py::kw_only(), py::arg("constants"), py::arg("packed"),
             py::arg("device"), py::arg("constants_here"), py::arg("held"))
        .def_property_readonly("arena_bytes", &Program::arena_bytes)
        .def_property_readonly("state_bytes", &Program::state_bytes)
        .def_property_readonly("packed_bytes", &Program::packed_bytes)
        .def_property_readonly("strips", [](const Program& program) {
            std::vector<std::tuple<int, int, std::int64_t, std::int64_t>> strips;
            for (const Strip& strip : program.strips().strips) {
                strips.emplace_back(strip.first, strip.end, strip.rows, strip.some);
            }
            return strips;
        });
    m.def("program_ops", [] {
        const auto names = list_ops();
        return std::vector<std::string>(names.begin(), names.end());
    });

    py::class_<Variant>(m, "Variant")
        .def(py::init(
                 [](int buffer, Address data) { return Variant{buffer, at_address<const void>(data), 0, 0, 0, 0, 0}; }),
             py::arg("buffer"), py::kw_only(), py::arg("data"))
        .def(py::init([](int buffer, std::uint64_t seed, std::uint64_t stream, double scale, std::int64_t begin,
                         std::int64_t count) { return Variant{buffer, nullptr, seed, stream, scale, begin, count}; }),
             py::arg("buffer"), py::kw_only(), py::arg("seed"), py::arg("stream"), py::arg("scale"), py::arg("begin"),
             py::arg("count"));
    m.def(
        "run_ensemble",
        [](const Program& program, const Program* prologue, std::int64_t samples, std::int64_t steps,
           const Addresses& states, const Addresses& inputs, std::int64_t input_steps,
           const std::vector<Variant>& variants, const std::vector<std::vector<int>>& lanes, std::int64_t values,
           Address reference, Address scale, Address errors, Address outputs, const Addresses& final_states,
           int threads, std::int64_t memory_limit, Address stream) {
            const EnsembleTask task{.samples = samples,
                                    .steps = steps,
                                    .states = pointers<const void*>(states),
                                    .inputs = pointers<const void*>(inputs),
                                    .input_steps = input_steps,
                                    .variants = variants,
                                    .lanes = lanes,
                                    .values = values,
                                    .reference = at_address<const void>(reference),
                                    .scale = at_address<const double>(scale),
                                    .errors = at_address<double>(errors),
                                    .outputs = at_address<void>(outputs),
                                    .final_states = pointers<void*>(final_states),
                                    .threads = threads,
                                    .memory_limit = memory_limit,
                                    .stream = stream};
            return describe(interruptible([&] { return run_ensemble({&program, prologue}, task, python_interrupts); }));
        },
        py::arg("program"), py::arg("prologue"), py::kw_only(), py::arg("samples"), py::arg("steps"), py::arg("states"),
        py::arg("inputs"), py::arg("input_steps"), py::arg("variants"), py::arg("lanes"), py::arg("values"),
        py::arg("reference"), py::arg("scale"), py::arg("errors"), py::arg("outputs"), py::arg("final_states"),
        py::arg("threads"), py::arg("memory_limit"), py::arg("stream"));

    py::class_<WeightSeed>(m, "WeightSeed")
        .def(py::init([](int buffer, std::int64_t tangent, Address data) {
                 return WeightSeed{buffer, tangent, at_address<const void>(data)};
             }),
             py::arg("buffer"), py::kw_only(), py::arg("tangent"), py::arg("data"));
    py::class_<TangentTask>(m, "TangentTask")
        .def(py::init([](std::int64_t samples, std::int64_t tangents, std::int64_t steps, const Addresses& states,
                         const Addresses& seeds, const std::vector<WeightSeed>& weight_seeds, const Addresses& inputs,
                         std::int64_t input_steps, std::int64_t values, Address outputs, Address tangent_outputs,
                         Address scale, Address errors, const Addresses& final_states, const Addresses& final_tangents,
                         int threads, std::int64_t memory_limit, Address stream) {
                 return TangentTask{.samples = samples,
                                    .tangents = tangents,
                                    .steps = steps,
                                    .states = pointers<const void*>(states),
                                    .seeds = pointers<const void*>(seeds),
                                    .weight_seeds = weight_seeds,
                                    .inputs = pointers<const void*>(inputs),
                                    .input_steps = input_steps,
                                    .values = values,
                                    .outputs = at_address<void>(outputs),
                                    .tangent_outputs = at_address<void>(tangent_outputs),
                                    .scale = at_address<const double>(scale),
                                    .errors = at_address<double>(errors),
                                    .final_states = pointers<void*>(final_states),
                                    .final_tangents = pointers<void*>(final_tangents),
                                    .threads = threads,
                                    .memory_limit = memory_limit,
                                    .stream = stream};
             }),
             py::kw_only(), py::arg("samples"), py::arg("tangents"), py::arg("steps"), py::arg("states"),
             py::arg("seeds"), py::arg("weight_seeds"), py::arg("inputs"), py::arg("input_steps"), py::arg("values"),
             py::arg("outputs"), py::arg("tangent_outputs"), py::arg("scale"), py::arg("errors"),
             py::arg("final_states"), py::arg("final_tangents"), py::arg("threads"), py::arg("memory_limit"),
             py::arg("stream"));
    m.def(
        "run_tangents",
        [](const Program& program, const Program* prologue, const TangentTask& task) {
            return describe(interruptible([&] { return run_tangents({&program, prologue}, task, python_interrupts); }));
        },
        py::arg("program"), py::arg("prologue"), py::arg("task"));
    m.def(
        "find_non_finite",
        [](const Program& program, const Program* prologue, const TangentTask& task) {
            const Failure found =
                interruptible([&] { return find_non_finite({&program, prologue}, task, python_interrupts); });
            return std::make_tuple(found.step, found.node, found.tangent, found.sample);
        },
        py::arg("program"), py::arg("prologue"), py::arg("task"));
}

}  // namespace tqs
