"""diagnose_basin: closed forms of lines through weights, verdicts, and a real system."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tqs_fast as tqs
from networks import cells_system, linear_system
from packing import block_plan, plan_for
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.blocks import parse_name
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.recovery.basin import POSITIONS, flat_radius
from tqs_fast.rewriting import QuantLinear

HOME = torch.linspace(-1, 1, 32)[None]
PLAIN = tqs.Quantizer(0)


def valley_system(height, bits: int) -> tqs.System:
    """One step, y = x (1 + height(a)), with the weights at w + a (Q(w) - w): damage is height(a)² / (spread of x)²."""
    move = PLAIN.dequantized(HOME, bits) - HOME

    def step(module, x):
        a = (F.linear(move, module.weight - HOME) / move.square().sum()).squeeze()
        return x, x * (1 + height(a))

    layer = nn.Linear(32, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(HOME)
    return tqs.System(layer, step=step, initial_state=lambda count, g: torch.randn(count, 1, generator=g))


def diagnose(height, bits: int = 3, **keywords) -> tqs.BasinDiagnosis:
    system = valley_system(height, bits)
    start = torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    plan = plan_for(system.module, [bits], PLAIN)
    states = tqs.Contexts((start - start.mean()) / start.std(unbiased=False))
    return tqs.diagnose_basin(system, plan, horizon=1, initial=states, engine="serial", **keywords)


def test_a_linear_layer_over_one_step_is_exactly_quadratic():
    torch.manual_seed(0)
    system = linear_system(torch.randn(5, 5))
    start = torch.randn(40, 5)
    plan = plan_for(system.module, [3], tqs.Quantizer(0))
    found = tqs.diagnose_basin(system, plan, horizon=1, initial=tqs.Contexts(start), tolerance=0.001, engine="torch")
    weight = system.module.map.weight.detach()
    move = plan.quantizer.dequantized(weight, 3) - weight
    y = (start @ weight.T).double()
    expected = float(((start @ move.T).double() / y.std(dim=0, unbiased=False)).square().mean())
    for scan in (found.whole, *found.layers):
        np.testing.assert_allclose(scan.damage, POSITIONS**2 * expected, rtol=1e-4, atol=1e-12)
        assert scan.quadratic == pytest.approx(expected, rel=1e-4)
        assert scan.ratio == pytest.approx(1.0, rel=1e-3)
        assert scan.slope == pytest.approx(2 * expected, rel=1e-3)
        assert scan.exponent == pytest.approx(2.0, rel=1e-3)
        assert scan.flat_radius == pytest.approx(min(1.5, (0.001 / expected) ** 0.5), rel=1e-3)
        assert scan.distance == pytest.approx(float(move.norm() / weight.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("height", "damage", "ratio", "exponent", "verdict"),
    [
        (lambda a: 0.05 * a, 0.0025, 1.0, 2.0, "inside"),
        (lambda a: 0.1 * a + 0.3 * a**3, 0.16, 16.0, 5.0, "on the wall"),
        (lambda a: 0.01 * a + 0.06 * a**3, 0.0049, 49.0, 2 * 0.19 / 0.07, "on the wall"),  # low, but a wall begins
        (lambda a: 0.4 * a, 0.16, 1.0, 2.0, "on the wall"),
        (lambda a: 0.4 * torch.tanh(8 * a), 0.16, 1 / 64, 0.0, "outside"),
        (lambda a: 0.7 * a - 0.4 * a**2, 0.09, 0.09 / 0.49, -2 / 3, "outside"),  # the way back leads uphill
        (lambda a: 0.6 * a, 0.36, 1.0, 2.0, "outside"),  # saturated
    ],
)
def test_verdicts_of_known_valleys(height, damage, ratio, exponent, verdict):
    whole = diagnose(height).whole
    assert whole.at_rounded == pytest.approx(damage, rel=1e-3)
    assert whole.ratio == pytest.approx(ratio, rel=1e-3)
    assert whole.exponent == pytest.approx(exponent, rel=0.01, abs=0.01)
    assert whole.verdict == verdict
    assert (whole.advice == "keep it") == (verdict == "inside")


def test_what_diverges_is_outside():
    found = diagnose(lambda a: torch.where(a > 0.3, torch.inf, a))
    assert found.whole.verdict == "outside"
    assert np.isinf(found.whole.damage[-1])
    assert found.to_json()["whole"]["damage"][-1] == "inf"
    json.dumps(found.to_json())


def test_flat_radius():
    assert flat_radius(0.04 * POSITIONS**2, 0.01) == pytest.approx(0.5)
    assert flat_radius(0.04 * POSITIONS**2, 1.0) == 1.5
    cliff = np.where(POSITIONS <= 0.75, 0.0, np.inf)
    assert flat_radius(cliff, 0.01) == 0.75


def test_layers_and_row_blocks_of_a_recurrent_system(tmp_path):
    system = cells_system(16)
    states = tqs.Contexts(system.initial_state(12, torch.Generator().manual_seed(0)))
    plan = block_plan(system.module, 2)
    found = tqs.diagnose_basin(system, plan, horizon=6, initial=states)
    assert [scan.name for scan in found.layers] == list(plan.bits)
    # the coarser a block, the farther away
    by_bits = {bits: [s.distance for s in found.layers if plan.bits[s.name] == bits] for bits in (2, 8)}
    assert min(by_bits[2]) > max(by_bits[8])
    # distances are of the rows of a block alone, over the norm of the whole weight
    norms = {
        weight.name: float(parameter_of(system.module, weight).detach().norm())
        for weight in find_weights(system.module)
    }
    moved = sum((scan.distance * norms[parse_name(scan.name)[0]]) ** 2 for scan in found.layers)
    assert found.whole.distance**2 * sum(norm**2 for norm in norms.values()) == pytest.approx(moved, rel=1e-5)
    torch_engine = tqs.diagnose_basin(system, plan, horizon=6, initial=states, engine="torch")
    for ours, theirs in zip((*found.layers, found.whole), (*torch_engine.layers, torch_engine.whole), strict=True):
        np.testing.assert_allclose(ours.damage, theirs.damage, rtol=1e-2, atol=1e-9)
        assert ours.quadratic == pytest.approx(theirs.quadratic, rel=1e-2)
    direct = tqs.evaluate(system, tqs.quantize(system.module, plan), horizon=6, initial=states)
    assert found.whole.at_rounded == pytest.approx(direct.damage, rel=1e-3)
    found.save(tmp_path / "basin.json")
    assert json.loads((tmp_path / "basin.json").read_text())["layers"][0]["verdict"] == found.layers[0].verdict
    assert "all layers" in str(found)


def test_compensated_weights_lie_farther_away_and_lower():
    system = tqs.load_system("lorenz-gru")
    plan = plan_for(system.module, [3])
    nearest = tqs.diagnose_basin(system, plan)
    small = tqs.quantize(system.module, plan, method="sensitivity", system=system)
    compensated = tqs.diagnose_basin(system, plan, quantized=small)
    assert compensated.whole.distance > nearest.whole.distance
    assert compensated.whole.at_rounded < 0.5 * nearest.whole.at_rounded
    assert nearest.whole.verdict != "inside"
    assert compensated.provenance["plan"]["provenance"]["compensation"]["method"] == "sensitivity"


def test_figure():
    pytest.importorskip("matplotlib")
    figure = diagnose(lambda a: 0.1 * a + 0.3 * a**3).plot()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()][-2:] == [
        "all layers (on the wall)",
        "its quadratic",
    ]


def test_wrong_arguments():
    system = linear_system(torch.eye(3))
    plan = plan_for(system.module, [4], tqs.Quantizer(0))
    with pytest.raises(ArgumentError, match="tolerance must be a positive number"):
        tqs.diagnose_basin(system, plan, tolerance=0.0)
    with pytest.raises(ArgumentError, match="leaves every layer float"):
        tqs.diagnose_basin(system, plan_for(system.module, [None]))
    with pytest.raises(ArgumentError, match="expected a packed weight at map"):
        tqs.diagnose_basin(system, plan, quantized=system.module)
    assert isinstance(tqs.quantize(system.module, plan).map, QuantLinear)
