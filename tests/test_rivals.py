"""What others rank layers by, against closed forms on a linear map, where one step is y = A z."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tqs_fast as tqs
from networks import cells_system, linear_system, rotation
from tqs_fast import kernels
from tqs_fast.scoring.methods import stream

START = torch.tensor([[1.0, 0.1], [0.3, -0.8], [-1.2, 0.4]])
MATRIX = rotation(0.4, 0.97) + torch.tensor([[0.0, 0.03], [0.01, 0.0]])
QUANTIZER = tqs.Quantizer(group_size=0)
RIVALS = [
    tqs.WeightError(),
    tqs.WeightError(relative=False),
    tqs.HessianTrace(probes=4),
    tqs.OutputDivergence(),
    tqs.GradientChange(),
    tqs.GradientChange(target="float"),
]


def scored(method, start=START, horizon=9, **more):
    return tqs.score(linear_system(MATRIX), horizon=horizon, initial=tqs.Contexts(start), method=method, **more)


def scale_of(start, horizon=9):
    """Standard deviation of each channel over the whole rollout, in float64."""
    z, path = start.double().numpy(), []
    for _ in range(horizon):
        z = z @ MATRIX.double().numpy().T
        path.append(z)
    return np.concatenate(path).std(axis=0)


def change(bits):
    """Q(A) - A in float64."""
    return (QUANTIZER.dequantized(MATRIX, bits).double() - MATRIX.double()).numpy()


def test_weight_error():
    energy = float(MATRIX.double().square().sum())
    absolute = [(change(bits) ** 2).sum() for bits in (2, 3, 4, 8)]
    table = scored(tqs.WeightError(relative=False, quantizer=QUANTIZER))
    np.testing.assert_allclose(table.damage[0], absolute, rtol=1e-6)
    np.testing.assert_allclose(table.relative_error[0], np.array(absolute) / energy, rtol=1e-6)
    np.testing.assert_allclose(scored(tqs.WeightError(quantizer=QUANTIZER)).damage[0], np.array(absolute) / energy)


def half_mean_trace(start):
    """‖∂y/∂A‖² / (outputs · weights): Σ_n ‖z_n‖² Σ_i 1/s_i² over 2 N · 4."""
    z = start.double().numpy()
    return (z**2).sum() * (1 / scale_of(start) ** 2).sum() / (2 * len(z) * 4)


def test_hessian_trace_of_one_initial_condition_is_exact():
    """One condition: every product u_i z_j / s_i is squared alone, and the sign drops out of each probe."""
    table = scored(tqs.HessianTrace(probes=2, quantizer=QUANTIZER), START[:1])
    expected = [half_mean_trace(START[:1]) * (change(bits) ** 2).sum() for bits in table.bits]
    np.testing.assert_allclose(table.damage[0], expected, rtol=1e-5)
    np.testing.assert_allclose(table.probe_stderr[0], 0, atol=1e-6 * expected[0])


def test_hessian_trace_of_several_is_met_within_its_standard_error():
    table = scored(tqs.HessianTrace(probes=1000, quantizer=QUANTIZER))
    expected = np.array([half_mean_trace(START) * (change(bits) ** 2).sum() for bits in table.bits])
    stderr = table.probe_stderr[0]
    assert (np.abs(table.damage[0] - expected) < 5 * stderr).all()
    # Three conditions of similar size: the spread of one probe is at most about its mean.
    assert (stderr < 2 * expected / np.sqrt(1000)).all()
    assert (stderr > 0.01 * expected / np.sqrt(1000)).all()


def test_hessian_trace_is_the_one_step_damage_expected_of_rounding_errors():
    """Signs drawn anew for every weight's rounding error: their mean one-step damage is the score, to its form."""
    bits, draws = 4, 4000
    generator = np.random.default_rng(0)
    size = np.sqrt((change(bits) ** 2).mean())
    z, s = START.double().numpy(), scale_of(START)
    errors = size * generator.choice([-1.0, 1.0], size=(draws, 2, 2))
    damages = ((np.einsum("dij,nj->dni", errors, z) / s) ** 2).mean(axis=(1, 2))
    expected = half_mean_trace(START) * (change(bits) ** 2).sum()
    assert abs(damages.mean() - expected) < 5 * damages.std() / np.sqrt(draws)


def test_output_divergence():
    z, s = START.double().numpy(), scale_of(START)
    for engine in ("native", "torch", "serial"):
        table = scored(tqs.OutputDivergence(quantizer=QUANTIZER), engine=engine)
        for column, bits in enumerate(table.bits):
            error = z @ change(bits).T / s
            np.testing.assert_allclose(table.samples[0, column], (error**2).mean(axis=1), rtol=1e-4, atol=1e-12)
        assert table.curve.shape == (1, 4, 1)


@pytest.mark.parametrize("target", ["float", "sampled"])
def test_gradient_change(target):
    table = scored(tqs.GradientChange(target=target, quantizer=QUANTIZER), seed=5)
    z, s = START.double().numpy(), scale_of(START)
    for column, bits in enumerate(table.bits):
        for n in range(3):
            noise = kernels.normal(2, seed=5, stream=stream("target", n)) if target == "sampled" else 0.0
            residual = z[n] @ change(bits).T / s - noise
            gradient = (residual / s)[:, None] * z[n][None, :]  # 2/C · residual_i / s_i · z_j with C = 2
            expected = np.abs(gradient * change(bits)).sum()
            assert table.samples[0, column, n] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_gradient_is_taken_with_every_layer_quantized():
    """Against the float target the gradient is what quantization causes: with six layers rounded, far more of it."""
    system = cells_system(width=8)
    method = tqs.GradientChange(target="float", bits=(2, 8))
    arguments = {"horizon": 3, "initial": tqs.Attractor(count=2, spin_up=2), "method": method}
    together = tqs.score(system, **arguments)
    alone = tqs.score(system, layers=["encoder.weight"], **arguments)
    assert together.layers[0].name == "encoder.weight"
    assert together.damage[0, 0] > 2 * alone.damage[0, 0]


def test_row_blocks_share_out_the_whole():
    system = cells_system(width=8)
    arguments = {"horizon": 3, "initial": tqs.Attractor(count=3, spin_up=2), "layers": ["gru.weight_hh"]}
    for method in (tqs.GradientChange(), tqs.WeightError(relative=False)):
        whole = tqs.score(system, method=method, **arguments)
        blocks = tqs.score(system, method=method, row_blocks=3, **arguments)
        np.testing.assert_allclose(blocks.damage.sum(axis=0), whole.damage[0], rtol=1e-5)
    whole = tqs.score(system, method=tqs.HessianTrace(), **arguments)
    blocks = tqs.score(system, method=tqs.HessianTrace(), row_blocks=3, **arguments)

    def trace(table):
        """Half the trace of each layer."""
        weights = dict(system.module.named_parameters())["gru.weight_hh"].detach().chunk(len(table.layers))
        energies = np.array([float(w.double().square().sum()) for w in weights])
        sizes = np.array([layer.parameters for layer in table.layers])
        return (table.damage[:, 0] / table.relative_error[:, 0] / energies * sizes).sum()

    assert trace(blocks) == pytest.approx(trace(whole), rel=1e-5)


@pytest.mark.parametrize("method", RIVALS, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'target', '')}")
def test_every_rival_yields_a_table_that_plans(method, tmp_path):
    families = [tqs.Contexts(START, name="few"), tqs.Contexts(2 * START.repeat(3, 1), name="many")]
    table = tqs.score(linear_system(MATRIX), horizon=4, initial=families, method=method)
    assert table.families == ("few", "many")
    assert table.provenance["method"]["name"] == type(method).__name__
    assert table.provenance["method"]["meaning"] == method.meaning
    np.testing.assert_allclose(table.damage, table.damage_of_family.mean(axis=0))
    assert (np.diff(table.damage[0]) < 0).all()
    assert tqs.allocate(table, average_bits=12.0).bytes > 0
    table.save(tmp_path / "table.json")
    assert tqs.Sensitivity.load(tmp_path / "table.json").to_json() == table.to_json()
    again = tqs.score(linear_system(MATRIX), horizon=4, initial=families, method=method)
    assert again.to_json() == table.to_json()


def test_driven_systems_and_blocks_take_their_first_step():
    system = tqs.load_system("lorenz-gru")
    for method in RIVALS:
        assert tqs.score(system, horizon=5, initial=tqs.Attractor(count=3), method=method).damage.shape[1] == 4

    def step(module, state, given):
        state = module.map(state) + given
        return state, torch.stack([state, 0.5 * state], dim=1)

    module = linear_system(MATRIX).module
    driven = tqs.System(
        module,
        step=step,
        initial_state=lambda n, g: torch.randn(n, 2, generator=g),
        inputs=lambda n, t, g: torch.randn(n, t, 2, generator=g),
        block=2,
    )
    generator = torch.Generator().manual_seed(3)
    start, inputs = (torch.randn(*shape, generator=generator) for shape in ((4, 2), (4, 3, 2)))
    for method in RIVALS:
        table = tqs.score(driven, horizon=6, initial=tqs.Contexts(start, inputs=inputs), method=method)
        assert np.isfinite(table.damage).all()
        if isinstance(method, tqs.OutputDivergence):
            for column, bits in enumerate(table.bits):
                rounded = method.quantizer.dequantized(MATRIX, bits).double() - MATRIX.double()
                error = start.double().numpy() @ rounded.numpy().T / np.array(table.provenance["scale"])
                expected = (error**2).mean(axis=1) * (1 + 0.25) / 2  # the second value is half the first
                np.testing.assert_allclose(table.samples[0, column], expected, rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tqs.HessianTrace(probes=0), "probes"),
        (lambda: tqs.GradientChange(target="true"), "target"),
        (lambda: tqs.WeightError(bits=(8, 2)), "bits must be"),
        (lambda: tqs.OutputDivergence(bits=(5,)), "bits must be"),
    ],
)
def test_bad_methods(make, message):
    with pytest.raises(tqs.ArgumentError, match=message):
        make()


def test_a_step_without_gradients_is_explained():
    def step(module, state):
        state = torch.from_numpy(module.map(state).detach().numpy())
        return state, state

    system = tqs.System(linear_system(MATRIX).module, step=step, initial_state=lambda n, g: START)
    for method in (tqs.HessianTrace(), tqs.GradientChange()):
        with pytest.raises(tqs.ArgumentError, match="cannot differentiate"):
            tqs.score(system, horizon=3, initial=tqs.Contexts(START), method=method)
