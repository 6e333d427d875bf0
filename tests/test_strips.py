"""Strips: position-wise nodes run some rows at a time, and results are those of torch and of short rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from packing import plan_for
from tqs_fast.engines.prepared import prepared
from tqs_fast.systems.tree import tree_leaves

ROWS, WIDTH = 700, 24
Step = Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Tokens(torch.nn.Module):
    """A feed-forward block on every row."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.down(torch.nn.functional.gelu(self.up(x))))


def block(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = net(x)
    return 0.9 * y + 0.1 * x.roll(1, 1), y.mean(1)


def softened(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax and a sum along the width, a broadcast over rows, a concatenation of halves."""
    half = WIDTH // 2
    gate = net(x).softmax(-1)
    joined = torch.cat([gate[..., :half] * x[..., half:], x[..., :half] * gate.sum(-1, keepdim=True)], -1)
    y = joined - joined.mean(1, keepdim=True)
    return net(y), y[:, -1]


def transposed(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As many rows as columns: what is read across looks like rows but needs all of them."""
    y = net(net(x).transpose(1, 2))
    return y, y.mean(1)


def shifted(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row needs the one before it."""
    y = net(x)
    z = net(torch.cat([y[:, :1], y[:, :-1]], 1) + y)
    return z, z[:, -1]


CASES: dict[str, tuple[Step, int, int]] = {
    "block": (block, ROWS, WIDTH),
    "softmax, sums and halves": (softened, ROWS, WIDTH),
    "as many rows as columns": (transposed, 200, 200),
    "shifted rows": (shifted, ROWS, WIDTH),
}


def make(step: Step, rows: int, width: int) -> tqs.System:
    return tqs.System(
        Tokens(width), step=step, initial_state=lambda n, g: torch.randn(n, rows, width, generator=g), name="tokens"
    )


@pytest.mark.parametrize("name", CASES)
def test_lanes_and_tangents_are_those_of_torch(name):
    step, rows, width = CASES[name]
    system = tqs.in_float64(make(step, rows, width))
    state = system.initial_state(2, torch.Generator().manual_seed(1))
    native = prepared(system, state, horizon=2)
    assert native.runtime.strips, "nothing is cut: the case tests nothing"
    direction = torch.randn(3, *state.shape, generator=torch.Generator().manual_seed(2), dtype=state.dtype)
    paths = {
        engine: tqs.rollout(system, state, horizon=2, tangents=direction, engine=engine)
        for engine in ("native", "torch")
    }
    for attribute in ("outputs", "tangent_outputs", "state", "tangents"):
        found, expected = (getattr(paths[engine], attribute) for engine in ("native", "torch"))
        scale = float(expected.abs().max())
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-12 * scale, err_msg=attribute)


def test_packed_weights_in_strips():
    """Rows of a strip lie apart from sample to sample: next to torch, and bit for bit next to one sample alone."""
    system = make(block, ROWS, WIDTH)
    system.module = tqs.quantize(system.module, plan_for(system.module, (8, 4)))
    state = system.initial_state(3, torch.Generator().manual_seed(1))
    native = prepared(system, state, horizon=2)
    kinds = [node.kind for node in native.program.nodes]
    assert any("packed_linear" in kinds[first:end] for first, end, _, _ in native.runtime.strips)
    direction = torch.randn(2, *state.shape, generator=torch.Generator().manual_seed(2))
    path = tqs.rollout(system, state, horizon=2, tangents=direction, engine="native")
    twin = tqs.in_float64(system)
    exact = tqs.rollout(twin, state.double(), horizon=2, tangents=direction.double(), engine="torch")
    for attribute in ("state", "tangents"):
        found, expected = getattr(path, attribute), getattr(exact, attribute)
        scale = float(expected.abs().max())
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5 * scale, err_msg=attribute)
    alone = tqs.rollout(system, state[1:2], horizon=2, tangents=direction[:, 1:2], engine="native")
    assert torch.equal(alone.state, path.state[1:2])
    assert torch.equal(alone.tangents, path.tangents[:, 1:2])


def test_scores_are_those_of_torch():
    system = make(block, ROWS, WIDTH)
    initial = tqs.Contexts(system.initial_state(2, torch.Generator().manual_seed(3)))
    tables = {engine: tqs.score(system, horizon=2, initial=initial, engine=engine) for engine in ("native", "torch")}
    np.testing.assert_allclose(np.sqrt(tables["native"].damage), np.sqrt(tables["torch"].damage), rtol=1e-4, atol=2e-6)


def test_values_that_only_a_strip_uses_have_room_for_its_rows():
    system = make(block, ROWS, WIDTH)
    state = system.initial_state(1, torch.Generator())
    native = prepared(system, state, horizon=1)
    (first, end, rows, some), *_ = native.runtime.strips
    assert rows == ROWS
    assert 16 <= some < ROWS
    assert end - first >= 4
    activations = 4 * ROWS * WIDTH * 4  # of the widest layer alone
    assert native.arena_bytes < activations + 4 * 4 * ROWS * WIDTH


def test_the_first_node_that_is_not_finite_is_named():
    """Row 5 goes wrong at a late node, row 600 at an early one: the early node counts, though its rows come later."""

    def step(net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        late = net.down(net.up(x).relu())  # type: ignore[operator]
        return late, late.mean(1)

    system = make(step, ROWS, WIDTH)
    with torch.no_grad():
        for parameter in system.module.parameters():
            parameter.abs_()
        system.module.down.weight.mul_(1e10)
    state = torch.ones(1, ROWS, WIDTH)
    assert prepared(system, state, horizon=1).runtime.strips
    state[0, 5] = 1e30  # overflows in `down`
    state[0, 600] = 3e38  # in `up` already
    with pytest.raises(tqs.DivergenceError, match=r"first in up \("):
        tqs.rollout(system, state, horizon=1, engine="native")


def test_chunks_are_the_same_whatever_the_threads():
    system = make(softened, ROWS, WIDTH)
    state = system.initial_state(3, torch.Generator().manual_seed(4))
    native = prepared(system, state, horizon=3)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            outputs, _ = native.ensemble(tree_leaves(state), [], steps=3, values=3)
            found.append(outputs)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
