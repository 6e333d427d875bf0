"""How trained weights are rounded: learned scales against finite differences, and CAGE's pull towards the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tqs_fast as tqs
from cases.formats import FORMATS
from checking import same_bits
from networks import cells_system
from packing import block_plan, plan_for
from tqs_fast import kernels
from tqs_fast.errors import ArgumentError
from tqs_fast.recovery import train
from tqs_fast.recovery.rounding import LearnedScales, RecomputedScales
from tqs_fast.recovery.training import Training
from tqs_fast.rewriting.rewrite import planned_weights

SMALL = {"batch": 16, "horizon": 12, "truncation": 12, "learning_rate": 4e-3}


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rounding_to_the_grid_of_pack_gives_its_codes(form):
    weight = np.random.default_rng(0).standard_normal((7, 150)).astype(np.float32)
    weight[3] = 0.0
    packed = kernels.pack(weight, bits=form.bits, group_size=form.group_size, symmetric=form.symmetric)
    again = kernels.round_to_grid(weight, packed)
    same_bits(again.codes, packed.codes)
    same_bits(kernels.round_to_grid(packed.dequantize(), packed).codes, packed.codes)


QUANTIZER = tqs.Quantizer(32, symmetric=False)


def learned(bits=3):
    """Weights in row blocks, their start, and the gradient of a random linear function of Q(w)."""
    module = nn.Linear(70, 6)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.weight.copy_(torch.randn(6, 70, generator=generator))
    planned = planned_weights(
        module, block_plan(module, 2, QUANTIZER) if bits is None else plan_for(module, [bits], QUANTIZER)
    )
    grids = {
        block.name: QUANTIZER.pack(block.of(module.weight.detach()) * 0.7, 3)
        for _, blocks in planned
        for block in blocks
    }  # on scales of smaller weights, so that some lie beyond
    return (
        planned,
        [module.weight.detach().clone()],
        LearnedScales(planned, grids),
        torch.randn(6, 70, generator=generator),
    )


@pytest.mark.parametrize("blocks", [None, 3])
def test_gradients_of_learned_scales(blocks):
    _, latent, rounding, direction = learned(bits=blocks)
    to_weights, *to_scales = rounding.pulled(latent, rounding.logarithms, [direction])
    assert [values.shape for values in to_scales] == [scale.shape for scale in rounding.logarithms]
    # With the codes as they are, Q(w) = s (code - zero) is linear in s: that part of the slope is exact. The other,
    # -w / s within the codes, is what straight-through takes rounding for: round(w / s) moves with w / s.
    start = rounding.packed(latent, rounding.logarithms)
    first = 0
    inside_share = []
    for packed, found in zip(start.values(), to_scales, strict=True):
        rows = packed.shape[0]
        matrix, arrived = latent[0][first : first + rows].double(), direction[first : first + rows].double()
        scale = (
            torch.from_numpy(packed.scales.view(np.int16))
            .view(torch.bfloat16)
            .double()
            .repeat_interleave(32, 1)[:, :70]
        )
        zero = torch.from_numpy(packed.zeros).double().repeat_interleave(32, 1)[:, :70]
        q = torch.from_numpy(packed.dequantize()).double() / scale
        inside = (matrix / scale >= -zero) & (matrix / scale <= 7 - zero)
        slope = torch.where(inside, q - matrix / scale, q) * arrived
        for group, value in enumerate(found.T):
            expected = (slope * scale)[:, group * 32 : group * 32 + 32].sum(dim=1)
            torch.testing.assert_close(value.double(), expected, rtol=1e-2, atol=1e-2)  # s against its bfloat16
        assert (to_weights[first : first + rows] == torch.where(inside, arrived, 0.0).float()).all()
        inside_share.append(float(inside.float().mean()))
        first += rows
    assert 0.5 < min(inside_share) <= max(inside_share) < 1.0


def test_what_is_packed_is_what_was_rounded():
    _, latent, rounding, _ = learned()
    moved = [
        scale + 0.1 * torch.randn(scale.shape, generator=torch.Generator().manual_seed(1))
        for scale in rounding.logarithms
    ]
    packed = rounding.packed(latent, moved)
    values = np.concatenate([part.dequantize() for part in packed.values()])
    assert (rounding.rounded(latent, moved)[0].numpy() == values).all()
    assert not np.array_equal(values, rounding.rounded(latent, rounding.logarithms)[0].numpy())


def test_learned_scales_train_and_deploy_what_was_measured(tmp_path):
    lorenz = tqs.load_system("lorenz-gru")
    plan, states = block_plan(lorenz.module, 2), tqs.Attractor(count=32, spin_up=64)
    found = tqs.recover(lorenz, plan, steps=12, every=4, scales="learned", initial=states, seed=3, **SMALL)
    assert found.share > 0.3
    held_out = tqs.evaluate(
        lorenz, found.module, horizon=12, initial=states, seed=3 + train.HELD_OUT_SEED, engine="torch"
    )
    assert held_out.damage == pytest.approx(found.history[found.best].deployed, rel=1e-3)
    plain = tqs.quantize(lorenz.module, plan)
    scales = [name for name in plain.state_dict() if name.endswith("scales")]
    assert any((found.module.state_dict()[name] != plain.state_dict()[name]).any() for name in scales)
    tqs.save(found.module, tmp_path / "model")
    loaded = tqs.load(lorenz.module, tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in found.module.state_dict().items())


def test_learned_scales_start_from_the_given_module():
    lorenz = tqs.load_system("lorenz-gru")
    plan, states = plan_for(lorenz.module, [3]), tqs.Attractor(count=16, spin_up=32)
    small = tqs.quantize(lorenz.module, plan, method=tqs.Compensation(horizon=12), system=lorenz)
    found = tqs.recover(lorenz, plan, quantized=small, steps=1, scales="learned", initial=states, learning_rate=0.0)
    assert all(torch.equal(found.module.state_dict()[name], value) for name, value in small.state_dict().items())


def test_cage_pulls_weights_onto_the_grid_after_its_silence():
    # x <- x - lr λ_t (x - Q(x)), λ_t = λ (t / T - s) / (1 - s): by hand, on a loss that is flat.
    system = cells_system(8)
    plan = plan_for(system.module, [3])
    states = tqs.Contexts(system.initial_state(4, torch.Generator().manual_seed(0)))
    run = {"initial": states, "horizon": 4, "every": 1, "patience": 99, "batch": 4, "learning_rate": 2e-3}
    silent = tqs.recover(system, plan, steps=10, method="cage", silence=0.5, correction=100.0, **run)
    plain = tqs.recover(system, plan, steps=10, **run)
    strong = tqs.recover(system, plan, steps=10, method="cage", silence=0.5, correction=400.0, **run)
    assert [look.distance for look in silent.history[:6]] == [look.distance for look in plain.history[:6]]
    assert strong.history[10].distance < silent.history[10].distance < plain.history[10].distance
    planned = planned_weights(system.module, plan)
    weights = [system.module.get_parameter(weight.name).detach().clone() for weight, _ in planned]
    rounding, training = RecomputedScales(planned, plan), Training(weights, [1e-3] * len(weights), len(weights), 0)
    q = rounding.rounded(weights, [])
    training.pull(q, 0.25)
    for after, before, value in zip(training.latent, weights, q, strict=True):
        torch.testing.assert_close(after, before - 0.25 * (before - value))


def test_a_diverged_rollout_moves_nothing_and_is_forgotten():
    training = Training([torch.ones(3), torch.ones(2)], [0.1, 0.1], 2, 0)
    for bad in (torch.nan, torch.inf, 1e30):
        training.take([torch.tensor([1.0, bad, 1.0]), torch.ones(2)])
    assert (training.latent[0] == 1).all()
    training.take([torch.ones(3), torch.ones(2)])
    assert (training.latent[0] < 0.95).all()
    assert training.step == 4


def test_a_step_that_detaches_is_refused():
    layer = nn.Linear(2, 2)
    system = tqs.System(
        layer, step=lambda m, x: (x, m(x).detach()), initial_state=lambda n, g: torch.randn(n, 2, generator=g)
    )
    plan, states = plan_for(layer, [3]), tqs.Contexts(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ArgumentError, match="zeroth-order"):
        tqs.recover(system, plan, steps=1, horizon=2, initial=states)
    tqs.recover(system, plan, steps=1, horizon=2, initial=states, method="zeroth-order")
