"""Capture: what a program promises to an engine, what it leaves out, and what it refuses."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import tqs_fast as tqs
from capturing import TOLERANCE, check_program, interpreted
from cases.networks import CASES, Encoder, Learned, TemporalConvolution
from networks import cells_system, linear_system, rotation
from tqs_fast.capture import Program, capture, describe, opcodes, sizes, verify
from tqs_fast.capture.boxes import shape_groups
from tqs_fast.reference.elementwise import OPCODES
from tqs_fast.reference.ops import REDUCTIONS
from tqs_fast.reference.program import run_program

BACKEND = Path(__file__).resolve().parents[1] / "csrc" / "backend"
ROWS = {case.name: case for case in CASES}


def enumerators(header: str, name: str) -> list[str]:
    body = re.search(rf"enum class {name}[^{{]*{{(.*?)}}", (BACKEND / header).read_text(), re.DOTALL)
    assert body is not None
    return re.findall(r"\w+", re.sub(r"//.*", "", body[1]))


def test_opcodes_are_those_of_the_kernels():
    assert list(opcodes.OPCODES) == enumerators("elementwise_code.h", "Opcode") == list(OPCODES)
    assert list(opcodes.REDUCTIONS) == enumerators("program_kernels.h", "Reduction") == list(REDUCTIONS)


@pytest.mark.parametrize("name", ["lorenz-gru", "silero-vad"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_built_in_systems(name: str, dtype: torch.dtype):
    if name == "silero-vad" and find_spec("silero_vad") is None:
        pytest.skip("needs the silero-vad package")
    check_program(tqs.load_system(name), dtype, TOLERANCE[dtype])


def test_state_trees_keep_their_order():
    check_program(cells_system(), torch.float64, TOLERANCE[torch.float64])


# ---------------------------------------------------------------- constants


def test_parameters_are_not_copied():
    system = tqs.load_system("lorenz-gru")
    program = capture(system)
    parameters = {name: p.data_ptr() for name, p in system.module.named_parameters()}
    assert {c.parameters: c.tensor.data_ptr() for c in program.constants} == {(n,): p for n, p in parameters.items()}


def test_constants_follow_their_parameters():
    system = ROWS["weight-norm"].make()
    program = capture(system)
    derived = [c for c in program.constants if len(c.parameters) == 2]
    assert len(derived) == 2
    constant = derived[0]
    name = next(name for name in constant.parameters if name.endswith("original0"))
    values = {name: 2 * system.module.get_parameter(name).detach()}
    moved = capture(system, module=_scaled(system.module, name, 2.0))
    expected = next(c for c in moved.constants if c.parameters == constant.parameters)
    torch.testing.assert_close(constant.derive(values), expected.tensor)
    # weight norm is linear in the norms
    norms = values[name].requires_grad_()
    (slope,) = torch.autograd.grad(constant.derive({name: norms}).square().sum(), norms)
    torch.testing.assert_close((slope * norms).sum(), 2 * expected.tensor.square().sum())


def _scaled(module: nn.Module, name: str, factor: float) -> nn.Module:
    import copy

    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.get_parameter(name).mul_(factor)
    return copied


def test_every_parameter_in_use_is_found_by_name():
    for name in ("encoder-pre-norm-causal", "revin-patches", "Conv2d"):
        system = ROWS[name].make()
        named = {p for constant in capture(system).constants for p in constant.parameters}
        assert named == {parameter for parameter, _ in system.module.named_parameters()}


# ---------------------------------------------------------------- only what is needed


def test_the_last_layer_of_a_transformer_computes_its_last_position():
    program = capture(tqs.Forecaster(Encoder(Learned(8), True, norm_first=True).eval(), 12, channels=2))
    attentions = [node for node in program.nodes if node.kind == "attention"]
    queries = [program.values[node.inputs[0]].sizes[-2] for node in attentions]
    assert queries == [12, 1]
    assert [program.values[node.inputs[1]].sizes[-2] for node in attentions] == [12, 12]
    assert [node.ints["causal"] for node in attentions] == [(1,), (0,)]
    after = program.nodes[program.nodes.index(attentions[1]) + 1 :]
    assert all(program.values[node.outputs[0]].sizes[0] in (1, 8, 12) for node in after if node.kind == "linear")
    assert sum(program.values[node.outputs[0]].sizes[0] == 1 for node in after if node.kind == "linear") == 4


def test_causal_convolutions_compute_what_the_forecast_can_see():
    program = capture(tqs.Forecaster(TemporalConvolution(levels=4).eval(), 48, channels=2))
    widths = [program.values[n.outputs[0]].sizes[2] for n in program.nodes if n.kind == "convolution"]
    # two taps further each: dilations 1, 2, 4, 8 see 2, 4, 8, 16 positions back
    assert widths == [29, 25, 17, 1]
    inlet = next(node for node in program.nodes if node.kind == "linear")
    assert program.values[inlet.outputs[0]].sizes == (31, 6)


# ---------------------------------------------------------------- state


def windows(program: Program) -> list[tuple[int, int, int, int]]:
    return [(s.slide, s.outer, s.length, s.inner) for s in program.states]


def test_windows_slide():
    program = capture(ROWS["decoder"].make())
    assert windows(program) == [(3, 1, 12, 2)]
    assert program.states[0].pitch >= 15
    assert program.buffers[program.states[0].buffer].elements == program.states[0].pitch * 2
    assert program.values[program.states[0].next].sizes == (1, 3, 2)


def test_windows_slide_along_any_axis():
    def step(module: nn.Module, state: torch.Tensor):
        new = module(state[..., -1])
        state = torch.roll(state, -1, 2)
        state[..., -1] = new
        return state, new

    layer = nn.Linear(3, 3)
    system = tqs.System(layer, step=step, initial_state=lambda n, g: torch.randn(n, 3, 7, generator=g))
    program = check_program(system, torch.float64, TOLERANCE[torch.float64])
    assert windows(program) == [(1, 3, 7, 1)]


def test_a_state_that_is_swapped_is_copied_first():
    def step(module: nn.Module, state):
        return {"a": state["b"], "b": state["a"], "kept": state["kept"]}, module(state["a"])

    def start(count: int, generator: torch.Generator):
        return {name: torch.randn(count, 3, generator=generator) for name in ("a", "b", "kept")}

    system = tqs.System(nn.Linear(3, 3), step=step, initial_state=start)
    program = check_program(system, torch.float64, TOLERANCE[torch.float64])
    kinds = {program.buffers[program.values[state.next].buffer].kind for state in program.states}
    assert kinds == {"arena"}


@pytest.mark.parametrize("name", ["attention-written-out-causal", "attention-written-out-lowest"])
def test_a_causal_mask_is_not_read(name: str):
    program = capture(ROWS[name].make())
    (attention,) = (node for node in program.nodes if node.kind == "attention")
    assert attention.inputs[3] == -1


# ---------------------------------------------------------------- verification


def drawn(system: tqs.System) -> torch.Tensor:
    return system.initial_state(3, torch.Generator().manual_seed(0))


def test_verify_accepts_what_was_captured():
    system = ROWS["GRUCell"].make()
    verify(interpreted(capture(system)), system, drawn(system))


def test_verify_finds_a_step_that_mixes_samples():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state) - state.mean(0, keepdim=True)
        return state, state

    system = tqs.System(nn.Linear(3, 3), step=step, initial_state=lambda n, g: torch.randn(n, 3, generator=g))
    with pytest.raises(tqs.CaptureError, match=r"mixes initial conditions.*for a batch.*engine=\"torch\""):
        verify(interpreted(capture(system)), system, drawn(system))


def test_verify_finds_a_step_that_takes_one_sample_only():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state.view(3)).view(1, 3)
        return state, state

    system = tqs.System(nn.Linear(3, 3), step=step, initial_state=lambda n, g: torch.randn(n, 3, generator=g))
    with pytest.raises(tqs.CaptureError, match="fails for a batch of 3: RuntimeError"):
        verify(interpreted(capture(system)), system, drawn(system))


def test_verify_draws_where_it_is_given_too_few_states():
    """One state is repeated to a batch in which mixing would not show."""

    def step(module: nn.Module, state: torch.Tensor):
        state = module(state) - (state - state.mean(0, keepdim=True))
        return state, state

    system = tqs.System(nn.Linear(3, 3), step=step, initial_state=lambda n, g: torch.randn(n, 3, generator=g))
    with pytest.raises(tqs.CaptureError, match="mixes initial conditions"):
        verify(interpreted(capture(system)), system, drawn(system)[:1])


def test_verify_finds_a_wrong_program():
    system = ROWS["GRUCell"].make()
    program = capture(system)
    linear = next(i for i, node in enumerate(program.nodes) if node.kind == "linear")
    node = program.nodes[linear]
    broken = replace(node, inputs=(*node.inputs[:2], -1))  # its bias forgotten
    program = replace(program, nodes=(*program.nodes[:linear], broken, *program.nodes[linear + 1 :]))
    with pytest.raises(tqs.CaptureError, match="something else than the step"):
        verify(interpreted(program), system, drawn(system))


def test_checkers_see_a_planted_fault():
    system = linear_system(rotation())
    program = capture(system)
    state = torch.randn(2)
    (right,), _ = run_program(program, [state.numpy()])
    program.constants[0].tensor.mul_(1.001)
    (wrong,), _ = run_program(program, [state.numpy()])
    assert abs(right - wrong).max() > 1e-4


# ---------------------------------------------------------------- refusals


def refused(step, module: nn.Module | None = None, size: tuple[int, ...] = (4,)) -> str:
    module = module or nn.Linear(4, 4)
    system = tqs.System(module, step=step, initial_state=lambda n, g: torch.randn(n, *size, generator=g), name="mine")
    with pytest.raises(tqs.CaptureError) as caught:
        capture(system)
    message = str(caught.value)
    assert "mine" in message
    assert 'engine="torch"' in message
    assert len(message) < 400
    return message


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(4, 4), nn.Identity()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(self.inner[0](x))


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_an_unknown_op_is_named_with_its_module_and_line():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state)
        return state, state

    message = refused(step, Wrapped(Odd()))
    assert "i0" in message
    assert "layers.0" in message
    assert "test_capture.py:" in message


def test_a_branch_on_a_value_is_refused():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state) if state.sum() > 0 else -state
        return state, state

    message = refused(step)
    assert "step at test_capture.py:" in message
    assert "branches on a value" in message


def test_a_branch_is_named_with_its_module_and_torch_stays_silent(capfd):
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(x.sum())

    def step(module: nn.Module, state: torch.Tensor):
        state = module(state)
        return state, state

    message = refused(step, Wrapped(Branching()))
    assert "layers.0 at test_capture.py:" in message
    assert "torch.where" in message
    assert capfd.readouterr() == ("", "")


def test_a_size_from_a_value_is_refused():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state) + state[state > 0].sum()
        return state, state

    refused(step)


@pytest.mark.parametrize(
    ("step", "size", "place"),
    [
        (lambda m, z: (torch.tanh(z) + m(z[:, :0]),) * 2, 3, "layers.0 (aten.linear.default)"),
        (lambda m, z: (torch.tanh(z) + z[:, :0].sum(1, keepdim=True),) * 2, 3, "step (aten.sum.dim_IntList)"),
        (lambda m, z: (torch.tanh(z), z.new_ones(1, 1)), 0, "step (aten.tanh.default)"),
    ],
)
def test_a_tensor_without_elements_is_refused(step, size, place):
    """Where it is read by a layer without inputs, where it is summed, and as a state."""
    layer = nn.Linear(1, 3)
    layer.weight, layer.in_features = nn.Parameter(torch.zeros(3, 0)), 0
    system = tqs.System(Wrapped(layer), step=step, initial_state=lambda n, g: torch.zeros(n, size))
    with pytest.raises(tqs.CaptureError) as caught:
        capture(system)
    assert str(caught.value).startswith(f"[capture] {place}: a tensor has no elements")
    assert str(caught.value).endswith('use engine="torch"')


def test_shapes_without_elements_are_one_group():
    assert shape_groups((2, 0, 3), (0,)) == [([0, 1, 2], [0])]
    assert shape_groups((2, 6), (2, 3, 2)) == [([0], [0]), ([1], [1, 2])]


def test_random_numbers_are_refused():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state) + torch.randn_like(state)
        return state, state

    assert "random" in refused(step)


def test_a_module_that_changes_is_refused():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += x[0]
            return self.seen + x

    def step(module: nn.Module, state: torch.Tensor):
        state = module(state)
        return state, state

    assert "'seen'" in refused(step, Counting())


def test_a_tensor_kept_in_an_attribute_is_refused():
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.before = torch.zeros(1, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer(x) + self.before
            self.before = x
            return x

    def step(module: nn.Module, state: torch.Tensor):
        state = module(state)
        return state, state

    assert "'before'" in refused(step, Remembering())


def test_half_precision_is_refused_on_the_processor():
    def step(module: nn.Module, state: torch.Tensor):
        state = module(state.bfloat16().float())
        return state, state

    system = tqs.System(nn.Linear(2, 2), step=step, initial_state=lambda n, g: torch.zeros(n, 2))
    with pytest.raises(tqs.CaptureError, match=r"16 bits .* \.to\(\"cuda\"\)"):
        tqs.rollout(system, torch.zeros(1, 2), horizon=2, engine="native")


def test_errors_of_ours_pass_through():
    system = tqs.Forecaster(nn.Flatten(), 6, channels=2)
    with pytest.raises(tqs.ArgumentError, match="check block and channels"):
        capture(system)


def test_capture_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(ROWS["LSTM-carried"].make())


# ---------------------------------------------------------------- description


def test_describe_names_every_node():
    program = capture(ROWS["encoder-post-norm-full"].make())
    text = describe(program).splitlines()
    assert text[0].startswith("state s0[1x12x2] slides by 1")
    assert sum(line.split()[0].isdigit() for line in text) == len(program.nodes)
    assert any("attention" in line and "layers.layers.1.self_attn" in line for line in text)
    counts = sizes(program)
    assert sum(counts["kinds"].values()) == counts["nodes"] == len(program.nodes)
    arena = sum(4 * buffer.elements for buffer in program.buffers if buffer.kind == "arena")
    assert 0 < counts["arena_bytes"] < arena
