"""Products with the tangent map and its transpose: adjoint to each other, by both engines; what cannot be captured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import networks_positions
import tqs_fast as tqs
from cases.networks import Upsampling
from tqs_fast.capture import transposed
from tqs_fast.growth.linearisation import STRIDE, Linearisation
from tqs_fast.growth.products import NativeProducts, TorchProducts, choose_products
from tqs_fast.systems import flows

STEPS = STRIDE + 3  # a whole stride and a part of one


class Strided(nn.Module):
    """Convolutions with strides, groups, dilation and padding, between the norms and activations that have no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 6, 3, stride=2, padding=1)
        self.mix = nn.Conv1d(6, 6, 3, dilation=2, padding=1, groups=3)
        self.norm = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, window):
        x = nn.functional.silu(self.down(window.transpose(1, 2)))
        return self.head(self.norm(self.mix(x)).mean(dim=2))


class Plane(nn.Module):
    """A convolution over a plane, its strides unequal."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 3, (3, 2), stride=(2, 1), padding=(1, 0))
        self.head = nn.Linear(9, 2)

    def forward(self, window):
        return self.head(torch.tanh(self.down(window[:, None])).mean(dim=(3,)).flatten(1)).tanh()


class Ring(nn.Module):
    """Margins that go round and margins that repeat the edge, of a line and of a plane."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(2, 4, 3, padding=2, padding_mode="circular")
        self.plane = nn.Conv2d(1, 2, 3, padding=(1, 2), padding_mode="circular")
        self.edge = nn.Conv2d(2, 2, 3, padding=(2, 0), padding_mode="replicate")
        self.head = nn.Linear(4, 2)

    def forward(self, window):
        x = torch.tanh(self.plane(torch.tanh(self.line(window.transpose(1, 2)))[:, None]))
        return torch.tanh(self.head(self.edge(x)[:, :, :, 1:3].mean(dim=2).flatten(1)))


def stacked_lstm() -> tqs.System:
    module = nn.LSTM(3, 5, num_layers=2, batch_first=True, proj_size=3)

    def step(module, state):
        y, (h, c) = module(state["y"][:, None], (state["h"].transpose(0, 1), state["c"].transpose(0, 1)))
        return {"c": c.transpose(0, 1), "y": y[:, 0], "h": h.transpose(0, 1)}, y[:, 0]

    def initial_state(n, g):
        sizes = {"y": (n, 3), "h": (n, 2, 3), "c": (n, 2, 5)}
        return {name: torch.randn(*size, generator=g) for name, size in sizes.items()}

    return tqs.System(module, step=step, initial_state=initial_state, name="lstm")


def driven() -> tqs.System:
    return tqs.System(
        nn.GRUCell(2, 4),
        step=lambda m, h, u: (m(u["force"], h), h[:, :1]),
        initial_state=lambda n, g: torch.randn(n, 4, generator=g),
        inputs=lambda n, t, g: {"force": torch.randn(n, t, 2, generator=g)},
        name="driven",
    )


SYSTEMS = {
    "lorenz-gru": lambda: tqs.load_system("lorenz-gru"),
    "lorenz-63": lambda: flows.lorenz63(0.01),
    "silero-vad": lambda: tqs.load_system("silero-vad"),
    "lstm": stacked_lstm,
    "driven": driven,
    "transformer": lambda: tqs.Forecaster(networks_positions.learned_positions(1), 6, channels=2),
    "rotary": lambda: tqs.Forecaster(networks_positions.rotary(1), 6, channels=2),
    "convolutions": lambda: tqs.Forecaster(Strided(), 9, channels=2),
    "plane": lambda: tqs.Forecaster(Plane(), 6, channels=2),
    "transposed convolutions": lambda: tqs.Forecaster(Upsampling(), 5, channels=2),
    "margins": lambda: tqs.Forecaster(Ring(), 6, channels=2),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_push_and_pull_are_transposes_and_both_engines_agree(name):
    torch.manual_seed(0)
    system = tqs.in_float64(SYSTEMS[name]())
    generator = torch.Generator().manual_seed(1)
    state = system.initial_state(2, generator)
    inputs = None if system.inputs is None else system.inputs(2, STEPS, generator)
    products: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for multiplier in (NativeProducts(system, state), TorchProducts(system)):
        operator = Linearisation(system, multiplier, state, inputs, steps=STEPS)
        generator.manual_seed(2)
        v, u = (torch.randn(2, operator.size, 3, generator=generator, dtype=torch.float64) for _ in range(2))
        ahead, back = operator.forward(v), operator.adjoint(u)
        left, right = u.transpose(1, 2) @ ahead, back.transpose(1, 2) @ v
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-11 * float(left.abs().max()))
        size = operator.log_scale.exp()[:, None, None]
        products[multiplier.name] = (ahead * size, back * size)
    for native, by_torch in zip(products["native"], products["torch"], strict=True):
        assert float(by_torch.abs().max()) > 0
        torch.testing.assert_close(native, by_torch, rtol=1e-9, atol=1e-11 * float(by_torch.abs().max()))


def test_products_are_those_of_a_rollout_with_tangents():
    """The scales drop out."""
    system = tqs.in_float64(tqs.load_system("lorenz-gru"))
    state = tqs.systems.draw(tqs.Attractor(count=2), system, horizon=STEPS).state
    operator = Linearisation(system, NativeProducts(system, state), state, None, steps=STEPS)
    v = torch.randn(2, operator.size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ahead = operator.forward(v) * operator.log_scale.exp()[:, None, None]
    seeds = dict(zip(state, operator.directions(v), strict=True))
    path = tqs.rollout(system, state, horizon=STEPS, tangents=seeds, engine="torch")
    whole = torch.cat([leaf.flatten(2) for leaf in path.tangents.values()], dim=2).permute(1, 2, 0)
    torch.testing.assert_close(ahead, whole, rtol=1e-12, atol=1e-14)


def test_singular_values_do_not_depend_on_the_engine():
    system = driven()
    start = tqs.Contexts(torch.randn(2, 4), inputs={"force": torch.randn(2, 20, 2)})
    rates = [
        tqs.growth_rates(system, horizon=20, method="krylov", initial=start, engine=e) for e in ("native", "torch")
    ]
    assert [each.provenance["engine"]["name"] for each in rates] == ["native", "torch"]
    np.testing.assert_allclose(rates[0].exponents, rates[1].exponents, rtol=1e-6)


def test_what_has_no_transpose_runs_on_torch_with_the_reason():
    def step(module, x):
        x = module(x)
        return torch.linalg.solve(torch.eye(2).to(x) * 2 + x[:, :, None] * x[:, None, :], x), x

    system = tqs.System(nn.Linear(2, 2), step=step, initial_state=lambda n, g: torch.randn(n, 2, generator=g))
    state = system.initial_state(1, torch.Generator().manual_seed(0))
    with pytest.raises(tqs.CaptureError, match="side effect"):
        choose_products("native", system, state)
    multiplier, reason = choose_products("auto", system, state)
    assert multiplier.name == "torch"
    assert "the native engine cannot run it" in reason


def test_a_step_that_branches_on_values_has_no_transpose():
    system = tqs.System(
        nn.Linear(2, 2),
        step=lambda m, x: (m(x), x) if float(x.sum()) > 0 else (x, x),
        initial_state=lambda n, g: torch.randn(n, 2, generator=g),
        name="forked",
    )
    with pytest.raises(tqs.CaptureError, match="forked, transposed"):
        transposed(system)
