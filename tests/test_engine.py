"""Lanes against the serial path, the serial path against real copies of the module, and what cannot fold."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import tqs_fast as tqs
from cases.modules import CASES
from networks import cells_system, looped
from tqs_fast.engines import Lane, fold, lane_product, roll_reference, run_lanes, run_serial
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.systems import draw, iterate

HORIZON = 6
# Lanes and serial differ by the order of float32 sums only; a damage is a square, so relative errors double, and the
# loop
# feeds rounding back for HORIZON steps. FLOOR is rounding squared, where a variant does almost nothing.
RELATIVE, FLOOR = 2e-3, 1e-10


def prepare(system, initial, horizon=HORIZON):
    states = draw(initial, system, horizon=horizon, seed=0)
    weights = find_weights(system.module)
    parameters = [parameter_of(system.module, weight) for weight in weights]
    return states, roll_reference(system, states, horizon), parameters


def variants_of(parameters, sizes=(0.02, 0.3)):
    generator = torch.Generator().manual_seed(1)
    return [
        Lane({i: p.detach() + size * p.detach().square().mean().sqrt() * torch.randn(p.shape, generator=generator)})
        for i, p in enumerate(parameters)
        for size in sizes
    ]


def assert_same(lanes, serial):
    torch.testing.assert_close(lanes.samples, serial.samples, rtol=RELATIVE, atol=FLOOR)
    torch.testing.assert_close(lanes.curve, serial.curve, rtol=RELATIVE, atol=FLOOR)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_lanes_equal_the_serial_path_for_every_module_kind(case):
    torch.manual_seed(0)
    module = case.make_module().eval()
    torch.manual_seed(1)
    arguments = case.make_input(5)
    system, state = looped(module, arguments, lambda m, *given: m(*given, **case.kwargs))
    states, reference, parameters = prepare(system, tqs.Contexts(state))
    folding = fold(system, states, parameters)
    assert folding.serial == {}, folding.serial
    lanes = variants_of(parameters)
    errors = run_lanes(system, states, reference, parameters, lanes, folding)
    assert_same(errors, run_serial(system, states, reference, parameters, lanes))
    # every weight matters: all lanes differ from the float model and from each other
    assert len({float(s) for s in errors.samples.mean(dim=1)}) == len(lanes)
    assert bool((errors.samples.mean(dim=1) > 0).all())


def test_the_serial_path_equals_copies_of_the_module():
    system = cells_system()
    states, reference, parameters = prepare(system, tqs.Attractor(count=4, spin_up=3))
    lanes = variants_of(parameters)
    errors = run_serial(system, states, reference, parameters, lanes)
    names = [weight.name for weight in find_weights(system.module)]
    for number, lane in enumerate(lanes):
        changed = copy.deepcopy(system.module)
        for index, tensor in lane.changes.items():
            changed.get_parameter(names[index]).data.copy_(tensor)
        rolled = [y for _, y in iterate(system, states.state, None, HORIZON, module=changed)]
        scaled = (torch.cat(rolled, dim=1).transpose(0, 1) - reference.outputs).double() / reference.scale
        expected = scaled.square().mean(dim=(0, 2))
        torch.testing.assert_close(errors.samples[number], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sharing", ["one variant for all", "two variants", "one each", "few"])
def test_lanes_with_whole_plans(sharing):
    system = cells_system()
    states, reference, parameters = prepare(system, tqs.Attractor(count=3, spin_up=3))
    menu = [[p.detach() * (1 + 0.05 * (k + 1)) for k in range(6)] for p in parameters]
    pick = {
        "one variant for all": lambda lane, i: 0,
        "two variants": lambda lane, i: (lane + i) % 2,
        "one each": lambda lane, i: lane,
        "few": lambda lane, i: None if (lane + i) % 3 else lane,
    }[sharing]
    lanes = [
        Lane({i: menu[i][pick(lane, i)] for i in range(len(parameters)) if pick(lane, i) is not None})
        for lane in range(6)
    ]
    folding = fold(system, states, parameters)
    errors = run_lanes(system, states, reference, parameters, lanes, folding)
    assert_same(errors, run_serial(system, states, reference, parameters, lanes))


def test_a_lane_without_changes_has_no_damage():
    system = cells_system()
    states, reference, parameters = prepare(system, tqs.Attractor(count=3, spin_up=3))
    lanes = [Lane({}), *variants_of(parameters)]
    errors = run_lanes(system, states, reference, parameters, lanes, fold(system, states, parameters))
    assert float(errors.samples[0].max()) < 1e-10
    assert float(errors.samples[1:].mean(dim=1).min()) > 1e-8


class Unfoldable(nn.Module):
    """A table computed from constants, a transposed weight, and one layer that folds."""

    def __init__(self):
        super().__init__()
        self.table = nn.Linear(4, 6)
        self.tied = nn.Linear(6, 6)
        self.plain = nn.Linear(6, 6)

    def forward(self, x):
        gain = self.table(torch.ones(4))
        return functional.linear(self.plain(x * gain), self.tied.weight.t()).tanh()


def test_weights_that_meet_no_batch_take_the_serial_path():
    torch.manual_seed(0)
    system = tqs.System(
        Unfoldable(), step=lambda m, z: (m(z), m(z)), initial_state=lambda n, g: torch.randn(n, 6, generator=g)
    )
    initial = tqs.Contexts(torch.randn(4, 6))
    states, _, parameters = prepare(system, initial)
    folding = fold(system, states, parameters)
    assert set(folding.serial) == {0, 1}
    assert all("batch" in reason for reason in folding.serial.values())
    mixed = tqs.score(system, horizon=5, initial=initial, engine="torch")
    serial = tqs.score(system, horizon=5, initial=initial, engine="serial")
    assert set(mixed.provenance["engine"]["serial"]) == {"table.weight", "tied.weight"}
    torch.testing.assert_close(torch.tensor(mixed.damage), torch.tensor(serial.damage), rtol=RELATIVE, atol=FLOOR)


def test_a_tensor_whose_size_is_not_a_multiple_of_the_batch_is_not_folded():
    torch.manual_seed(0)

    def step(module, state):
        y = module(torch.cat([state, torch.ones(1, 3)]))[:-1].tanh()
        return y, y

    system = tqs.System(nn.Linear(3, 3), step=step, initial_state=lambda n, g: torch.randn(n, 3, generator=g))
    states, _, parameters = prepare(system, tqs.Contexts(torch.randn(4, 3)))
    assert "no single batch dimension" in fold(system, states, parameters).serial[0]


def test_a_step_that_mixes_the_batch_is_not_folded():
    torch.manual_seed(0)
    system = tqs.System(
        nn.Linear(3, 3),
        step=lambda m, z: ((m(z) - m(z).mean(dim=0)).tanh() + 0.5 * z,) * 2,
        initial_state=lambda n, g: torch.randn(n, 3, generator=g),
    )
    states, _, parameters = prepare(system, tqs.Contexts(torch.randn(4, 3)))
    assert set(fold(system, states, parameters).serial) == {0}


def test_control_flow_that_depends_on_values_falls_back_and_says_so():
    torch.manual_seed(0)

    def step(module, state):
        x, t = state
        y = module(x).tanh()
        if float(t[0]) >= 2:
            y = y + 0.1 * module(y)
        return (y, t + 1), y

    system = tqs.System(nn.Linear(3, 3), step=step, initial_state=lambda n, g: (torch.ones(n, 3), torch.zeros(n, 1)))
    initial = tqs.Contexts((torch.randn(4, 3), torch.zeros(4, 1)))
    table = tqs.score(system, horizon=5, initial=initial)
    serial = tqs.score(system, horizon=5, initial=initial, engine="serial")
    assert "later step" in table.provenance["engine"]["serial"]["weight"]
    assert table.damage.tolist() == serial.damage.tolist()


def test_a_weight_that_a_step_never_uses_is_an_error():
    module = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    system = tqs.System(
        module, step=lambda m, z: (m["used"](z),) * 2, initial_state=lambda n, g: torch.randn(n, 3, generator=g)
    )
    with pytest.raises(tqs.ArgumentError, match=r"idle\.weight is not used"):
        tqs.score(system, horizon=3, initial=tqs.Contexts(torch.randn(2, 3)))
    tqs.score(system, horizon=3, initial=tqs.Contexts(torch.randn(2, 3)), layers="used.*")


def test_a_planted_fault_in_the_lanes_is_caught(monkeypatch):
    """Lanes that read each other's weights must not survive the check of the folding."""
    system = cells_system()
    states, _, parameters = prepare(system, tqs.Attractor(count=3, spin_up=3))
    assert fold(system, states, parameters).serial == {}
    real = lane_product.LaneProduct.__call__

    def faulty(self, x, weight, bias, *, reuse=False):
        return real(self, x, weight, bias, reuse=reuse).roll(1, 0)

    monkeypatch.setattr(lane_product.LaneProduct, "__call__", faulty)
    assert fold(system, states, parameters).serial != {}


def test_diverging_references_and_changing_shapes_are_errors():
    growing = tqs.System(
        nn.Linear(2, 2), step=lambda m, z: (z * 1e20, z * 1e20 + m(z)), initial_state=lambda n, g: torch.ones(n, 2)
    )
    with pytest.raises(tqs.DivergenceError, match="not finite from value"):
        tqs.score(growing, horizon=8, initial=tqs.Contexts(torch.ones(2, 2)))
    constant = tqs.System(
        nn.Linear(2, 2), step=lambda m, z: (z, 0 * m(z) + 1.0), initial_state=lambda n, g: torch.ones(n, 2)
    )
    with pytest.raises(tqs.DivergenceError, match="constant"):
        tqs.score(constant, horizon=8, initial=tqs.Contexts(torch.ones(2, 2)))
    widening = tqs.System(
        nn.Linear(2, 2), step=lambda m, z: (torch.cat([z, z], 1), m(z)), initial_state=lambda n, g: torch.ones(n, 2)
    )
    with pytest.raises(tqs.ArgumentError, match="shapes and dtypes it was given"):
        tqs.score(widening, horizon=3, initial=tqs.Contexts(torch.ones(2, 2)))
