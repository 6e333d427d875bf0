"""Weights that stay in host memory and pass through the GPU, or an emulated one (torch_cuda.py).

The streams of that one do their work as late, or as early, as what they wait for allows.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import re

import pytest
import torch

import tqs_fast as tqs
from checking import same_bits
from tqs_fast import _cuda_weights
from tqs_fast._native import core
from tqs_fast.capture import capture
from tqs_fast.engines.native_call import Place
from tqs_fast.engines.native_engine import NativeEngine
from tqs_fast.engines.native_program import NativeProgram, Noise

EMULATED = core.cuda_architectures() == "emulated"
DEVICE = torch.device("cuda:0")
BRINGING = Place(DEVICE, 0, constants_here=True)

pytestmark = pytest.mark.skipif(
    core.cuda_device_count() == 0 or not torch.cuda.is_available(), reason="needs a GPU, or an emulated one"
)

WIDTH, SAMPLES, STEPS = 64, 2, 3


@pytest.fixture(params=["late", "early"] if EMULATED else ["real"], autouse=True)
def streams(request, monkeypatch):
    monkeypatch.setenv("TQS_EMULATED_STREAMS", request.param)


class Deep(torch.nn.Module):
    """Layers of different sizes, a table, and a weight that two nodes read."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        sizes = [WIDTH if n % 2 == 0 else 2 * WIDTH for n in range(layers + 1)]
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.twice, self.out = torch.nn.Linear(sizes[-1], sizes[-1]), torch.nn.Linear(sizes[-1], WIDTH)
        self.table = torch.nn.Parameter(torch.randn(WIDTH))

    def forward(self, z):
        y = z * self.table
        for layer in self.layers:
            y = torch.tanh(layer(y))
        return torch.tanh(self.out(self.twice(torch.tanh(self.twice(y)))))


def system_of(layers: int) -> tqs.System:
    torch.manual_seed(0)
    return tqs.System(
        Deep(layers).eval(),
        step=lambda m, z: (m(z), m(z)[:, :3]),
        initial_state=lambda n, g: torch.randn(n, WIDTH, generator=g),
    )


class Both:
    """The same program with its weights on the GPU, and brought there."""

    def __init__(self, layers: int, arrange=lambda module: None) -> None:
        self.state = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))
        systems = [system_of(layers) for _ in range(2)]
        arrange(systems[0].module)
        program, copied = (capture(system, dtype=torch.float32) for system in systems)
        self.resident = NativeProgram(copied, place=Place(DEVICE, 0))
        self.brought = NativeProgram(program, place=BRINGING)
        self.constants = [c for c in program.constants if c.parameters]
        self.largest = max(c.tensor.numel() * 4 for c in self.constants)
        self.bytes = sum(c.tensor.numel() * 4 for c in program.constants)

    def lanes(self):
        """No change; noise on two weights; another one in place of the last."""
        first, last = self.constants[0], self.constants[-1]
        return [
            {},
            {c.buffer: Noise(n, 1, 1e-2, 0, c.tensor.numel()) for n, c in enumerate((first, last))},
            {last.buffer: (last.tensor * 1.01).detach()},
        ]

    def ensemble(self, native, lanes, limit=0):
        outputs, final = native.ensemble([self.state], [], steps=STEPS, values=STEPS, lanes=lanes, memory_limit=limit)
        return [outputs, *final]


def emulate(monkeypatch):
    """ "native:cuda" is the emulated GPU, whose tensors are those of the CPU."""
    if EMULATED:
        monkeypatch.setattr(Place, "bringing", classmethod(lambda cls, module, device: BRINGING))
        monkeypatch.setattr(_cuda_weights, "brought", lambda tensor, device: tensor)


def same(got, expected):
    for x, y in zip(got, expected, strict=True):
        same_bits(x.numpy(), y.numpy())


def least_limit(both: Both, lanes) -> int:
    """What the errors say is enough."""
    limit = 1
    while True:
        try:
            both.ensemble(both.brought, lanes, limit)
            return limit
        except tqs.ArgumentError as error:
            needed = int(re.search(r"takes (\d+) bytes", str(error))[1])
            assert needed > limit
            limit = needed


@pytest.mark.parametrize("layers", [0, 1, 2, 5])
def test_streamed_weights_give_the_same_bits(layers):
    """1, 2, 3 and 6 weights that may be streamed, from all of them to none, with lanes of their own variants."""
    both = Both(layers)
    lanes = both.lanes()
    expected = both.ensemble(both.resident, lanes)
    same(both.ensemble(both.brought, lanes), expected)
    use = both.brought.last_use
    assert use["streamed_bytes"] == 0
    assert use["constant_bytes"] == both.bytes
    least, seen = least_limit(both, lanes), set()
    for limit in (least, least + both.bytes // 3, least + 2 * both.bytes // 3):
        same(both.ensemble(both.brought, lanes, limit), expected)
        use = both.brought.last_use
        assert use["tile_bytes"] <= limit
        assert use["tile_bytes"] <= use["predicted_bytes"] <= 1.1 * use["tile_bytes"]
        assert use["constant_bytes"] + use["streamed_bytes"] == both.bytes
        seen.add(use["streamed_bytes"])
    assert (max(seen) > 0) == (layers >= 2)  # one or two weights take what their slots would
    if layers == 5:
        assert len(seen) > 1
        assert max(seen) > 2 * both.largest


def in_one_memory(module: torch.nn.Module) -> None:
    """All parameters, one behind the other, and something before and after them."""
    memory = torch.empty(6 + sum(parameter.numel() for parameter in module.parameters()))
    at = 3
    for parameter in module.parameters():
        own = memory[at : at + parameter.numel()].view(parameter.shape)
        at += own.numel()
        parameter.data = own.copy_(parameter.data)


def test_weights_that_are_parts_of_one_memory():
    """Also where another program, of one of them, came first."""
    first = []

    def arrange(module):
        in_one_memory(module)
        one = tqs.System(
            module.layers[0],
            step=lambda m, z: (z, m(z)[:, :3]),
            initial_state=lambda n, g: torch.randn(n, WIDTH, generator=g),
        )
        first.append(NativeProgram(capture(one, dtype=torch.float32), place=BRINGING))

    both = Both(5, arrange)
    expected = both.ensemble(both.resident, both.lanes())
    same(both.ensemble(both.brought, both.lanes()), expected)
    same(both.ensemble(both.brought, both.lanes(), both.bytes), expected)
    assert both.brought.last_use["streamed_bytes"] > 0


@pytest.mark.skipif(not EMULATED, reason="only the emulator counts what is locked")
def test_weights_are_locked_as_long_as_a_program_reads_them():
    """Whole pages of weights and nothing else; once for two programs."""
    locked = ctypes.CDLL(core.__file__).emulated_pinned_bytes
    locked.restype = ctypes.c_int64
    gc.collect()
    before = locked()
    program = capture(system_of(3), dtype=torch.float32)
    page = os.sysconf("SC_PAGE_SIZE")
    begins = [c.tensor.untyped_storage().data_ptr() for c in program.constants]
    ends = [c.tensor.untyped_storage().nbytes() + at for c, at in zip(program.constants, begins, strict=True)]
    sizes = [max(0, end // page - -(-at // page)) * page for at, end in zip(begins, ends, strict=True)]
    assert len([size for size in sizes if size > 0]) > 3
    first = NativeProgram(program, place=BRINGING)
    taken = locked() - before
    assert taken == sum(sizes)
    second = NativeProgram(program, place=BRINGING)
    assert locked() == before + taken
    del first
    gc.collect()
    assert locked() == before + taken
    del second
    gc.collect()
    assert locked() == before


def test_a_limit_that_not_even_streaming_keeps_to_says_what_is_needed():
    both = Both(3)
    with pytest.raises(tqs.ArgumentError, match=r"a memory limit of 9000 bytes is too small for a rollout that takes"):
        both.ensemble(both.brought, [{}], 9000)


def test_tangents_through_streamed_weights():
    both = Both(4)
    seeds = [torch.randn(2, SAMPLES, WIDTH, generator=torch.Generator().manual_seed(2))]
    weights = [{c.buffer: torch.randn_like(c.tensor) for c in both.constants[:n]} for n in (1, 0)]
    arguments = {"steps": STEPS, "values": STEPS, "seeds": seeds, "weight_seeds": weights}
    expected = both.resident.tangents([both.state], [], **arguments)
    found = both.brought.tangents([both.state], [], **arguments)
    assert found.use["streamed_bytes"] == 0
    streamed = both.brought.tangents([both.state], [], **arguments, memory_limit=both.bytes)
    assert streamed.use["streamed_bytes"] > 0
    for rolled in (found, streamed):
        same([rolled.outputs, rolled.tangent_outputs], [expected.outputs, expected.tangent_outputs])
        same([*rolled.states, *rolled.state_tangents], [*expected.states, *expected.state_tangents])


@pytest.mark.parametrize(("method", "room"), [(tqs.Residual(bits=(2, 4)), 1.0), (tqs.Noise(probes=1), 1.05)], ids=str)
def test_scores(monkeypatch, method, room):
    """`score(engine="native:cuda")` of a module of the CPU, with and without room for its weights."""
    system = system_of(3)
    state = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))

    def damages(engine, limit=None):
        table = tqs.score(
            system, horizon=3, initial=tqs.Contexts(state), method=method, engine=engine, memory_limit=limit
        )
        assert table.provenance["engine"]["name"] == "native"
        return table.damage

    streamed = []
    errors = NativeProgram.errors

    def noted(native, *arguments, **named):
        result = errors(native, *arguments, **named)
        streamed.append(native.last_use["streamed_bytes"])
        return result

    monkeypatch.setattr(NativeProgram, "errors", noted)
    here = damages("native")
    emulate(monkeypatch)
    there = damages("native:cuda")
    assert there == pytest.approx(here, rel=1e-3)
    size = sum(parameter.numel() * 4 for parameter in system.module.parameters())
    assert max(streamed) == 0
    assert (damages("native:cuda", int(room * size)) == there).all()
    assert max(streamed) > 0


@pytest.mark.parametrize("row_blocks", [1, 2])
def test_layers_are_rounded_on_the_gpu_that_they_are_brought_to(monkeypatch, row_blocks):
    """One after the other, with the bits of the processor."""
    system = system_of(1)
    state = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))
    method = tqs.Residual(bits=(2, 3))
    lanes, brought, rounded = [], [], []
    run, round_there = NativeEngine.run, _cuda_weights.rounded

    def noted(engine, given, *arguments):
        lanes.extend(change.cpu() for lane in given for change in lane.changes.values())
        return run(engine, given, *arguments)

    def score(engine):
        lanes.clear()
        initial = tqs.Contexts(state)
        table = tqs.score(system, horizon=2, initial=initial, method=method, engine=engine, row_blocks=row_blocks)
        return table, list(lanes)

    def bring(tensor, device):
        assert device == torch.device("cuda")
        brought.append(tensor.clone())
        return brought[-1]

    monkeypatch.setattr(NativeEngine, "run", noted)
    here, lanes_here = score("native")
    emulate(monkeypatch)
    if EMULATED:
        monkeypatch.setattr(_cuda_weights, "brought", bring)
        monkeypatch.setattr(
            _cuda_weights, "on_device", lambda tensor: any(tensor.data_ptr() == other.data_ptr() for other in brought)
        )
        monkeypatch.setattr(_cuda_weights, "_place", lambda tensor: (0, 0))
    monkeypatch.setattr(
        _cuda_weights, "rounded", lambda weight, **how: rounded.append(weight) or round_there(weight, **how)
    )
    there, lanes_there = score("native:cuda")
    assert len(rounded) == 2 * len(here.layers)
    same(lanes_there, lanes_here)
    # sums of 2^13 squares in two orders
    assert there.relative_error == pytest.approx(here.relative_error, rel=2 * 2**13 * 2**-53)
    assert there.damage == pytest.approx(here.damage, rel=1e-3)


def test_a_rollout_that_is_not_finite_is_located(monkeypatch):
    system = system_of(2)
    with torch.no_grad():
        system.module.layers[1].weight[0, 0] = float("nan")
    emulate(monkeypatch)
    state = torch.ones(2, WIDTH)
    with pytest.raises(tqs.DivergenceError, match=r"is not finite from step 0 on, first in layers\.1"):
        tqs.rollout(system, state, horizon=2, engine="native:cuda")


def test_what_cannot_be_brought_is_refused():
    system = system_of(1)
    state = torch.zeros(2, WIDTH)
    with pytest.raises(tqs.ArgumentError, match='expected an engine or "native:cuda"'):
        tqs.rollout(system, state, horizon=2, engine="torch:cuda")
    with pytest.raises(tqs.ArgumentError, match='expected an engine or "native:cuda"'):
        tqs.rollout(system, state, horizon=2, engine="native:nowhere")
    with pytest.raises(tqs.CaptureError, match="weights are brought to cuda devices, got cpu"):
        tqs.rollout(system, state, horizon=2, engine="native:cpu")
