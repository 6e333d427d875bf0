"""Recurrent cells written out, as on CUDA: torch's own values and derivatives, and the programs of the CPU.

On a GPU torch has fused cells instead; here the CPU is said to have them.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import jvp, vmap
from torch.nn.utils.rnn import pack_sequence

import tqs_fast as tqs
from tqs_fast.capture import capture, cells
from tqs_fast.engines.native_program import NativeProgram
from tqs_fast.engines.torch_ways import loading_forward_rules

MODULES = {
    "gru cell": lambda: nn.GRUCell(3, 5),
    "gru cell without bias": lambda: nn.GRUCell(3, 5, bias=False),
    "lstm cell": lambda: nn.LSTMCell(3, 5),
    "lstm cell without bias": lambda: nn.LSTMCell(3, 5, bias=False),
    "gru": lambda: nn.GRU(3, 5, 2, bidirectional=True),
    "gru, batch first": lambda: nn.GRU(3, 5, batch_first=True, bias=False),
    "lstm": lambda: nn.LSTM(3, 5, 2, bidirectional=True),
    "lstm, batch first and projected": lambda: nn.LSTM(3, 5, batch_first=True, proj_size=4),
}
by_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


@pytest.fixture
def written(monkeypatch):
    """How often the forms of `cells.WRITTEN` ran."""
    calls = []
    monkeypatch.setattr(cells, "has_fused_kernels", lambda _: True)
    for function, form in list(cells.WRITTEN.items()):

        def counted(*args, form=form, **kwargs):
            calls.append(form)
            return form(*args, **kwargs)

        monkeypatch.setitem(cells.WRITTEN, function, counted)
    return calls


def made(make) -> nn.Module:
    torch.manual_seed(0)
    return make().double()


def given(module: nn.Module, count: int = 4) -> torch.Tensor:
    shape = (count, 3) if isinstance(module, nn.RNNCellBase) else (count, 6, 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def flat(result) -> list[torch.Tensor]:
    return [part for one in result for part in flat(one)] if isinstance(result, tuple) else [result]


@by_module
def test_values_and_tangents(make, written):
    module = made(make)
    x = given(module)
    directions = torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = flat(module(x))
    assert not written
    step = 1e-6
    moved = [(flat(module(x + step * d)), flat(module(x - step * d))) for d in directions]
    with cells.CellsWrittenOut(), torch.no_grad(), loading_forward_rules():
        got, tangents = vmap(lambda d: jvp(module, (x,), (d,)), out_dims=(None, 0))(directions)
    assert written
    for place, (value, tangent) in enumerate(zip(flat(got), flat(tangents), strict=True)):
        torch.testing.assert_close(value, expected[place], rtol=1e-13, atol=1e-13)
        difference = torch.stack([(up[place] - down[place]) / (2 * step) for up, down in moved])
        torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_packed_sequences(name, written):
    module = made(MODULES[name])
    x = given(module)
    packed = pack_sequence([x[0], x[1, :4], x[2, :4], x[3, :1]])
    expected, state = module(packed)
    with cells.CellsWrittenOut():
        got, end = module(packed)
    assert written
    torch.testing.assert_close(got.data, expected.data, rtol=1e-13, atol=1e-13)
    for one, other in zip(flat(end), flat(state), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("keywords", [False, True])
def test_arguments_by_name(keywords, written):
    module = made(MODULES["gru cell"])
    x, h = given(module), torch.zeros(4, 5, dtype=torch.float64)
    weights = dict(zip(("w_ih", "w_hh", "b_ih", "b_hh"), module.parameters(), strict=True))
    with cells.CellsWrittenOut():
        got = torch.gru_cell(input=x, hx=h, **weights) if keywords else torch.gru_cell(x, h, *weights.values())
    assert len(written) == 1
    torch.testing.assert_close(got, module(x), rtol=1e-13, atol=1e-13)


def system_of(module: nn.Module) -> tqs.System:
    """The first three outputs are the next input."""

    def step(module, state):
        given = state if isinstance(module, nn.RNNCellBase) else state[:, None] if module.batch_first else state[None]
        first = flat(module(given))[0].reshape(len(state), -1)
        return first[:, :3], first

    def initial(count, generator):
        return torch.randn(count, 3, generator=generator, dtype=torch.float64)

    return tqs.System(module, step=step, initial_state=initial)


@by_module
def test_programs_are_those_of_the_cpu(make, written, monkeypatch):
    system = system_of(made(make))
    there = capture(system)
    assert written
    monkeypatch.setattr(cells, "has_fused_kernels", lambda _: False)
    here = capture(system)
    assert [node.kind for node in there.nodes] == [node.kind for node in here.nodes]
    state = system.initial_state(4, torch.Generator().manual_seed(1))
    rolled = [NativeProgram(p).ensemble([state], [], steps=3, values=3)[0] for p in (here, there)]
    torch.testing.assert_close(*rolled, rtol=1e-12, atol=1e-12)


@by_module
def test_torch_differentiates_what_is_written(make, written):
    system = system_of(made(make))
    state = system.initial_state(4, torch.Generator().manual_seed(1))
    directions = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theirs = tqs.rollout(system, state, horizon=3, tangents=directions, engine="torch")
    assert theirs.provenance["tangents"] == "torch.func.jvp, together"
    assert written
    ours = tqs.rollout(system, state, horizon=3, tangents=directions, engine="native")
    torch.testing.assert_close(ours.tangent_outputs, theirs.tangent_outputs, rtol=1e-10, atol=1e-12)
