"""fracast as a system against the package's own forecasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import series
from tqs_fast.systems import Contexts, Forecaster, Synthetic, draw, iterate, load_system

package = pytest.importorskip("fracast")
BLOCKS = 3


@pytest.fixture(scope="module")
def system() -> Forecaster:
    loaded = load_system("fracast")
    assert isinstance(loaded, Forecaster)
    return loaded


def rollout(system: Forecaster, windows: torch.Tensor, blocks: int = BLOCKS) -> np.ndarray:
    return torch.cat([output for _, output in iterate(system, windows, None, blocks)], dim=1)[..., 0].numpy()


def median(context: np.ndarray) -> np.ndarray:
    model = package.FracastModel.from_pretrained(weights="fp32")
    return model.forecast(context, horizon=48 * BLOCKS)[..., model.quantiles.index(0.5)]


def test_parameters_and_shape(system: Forecaster) -> None:
    assert sum(parameter.numel() for parameter in system.module.parameters()) == 85_001
    assert (system.context_length, system.block, system.channels, system.name) == (2048, 48, 1, "fracast")
    assert not system.module.training


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (5000.0, 3.0)])
def test_equal_to_the_package_over_three_blocks(system: Forecaster, offset: float, scale: float) -> None:
    windows = offset + scale * draw(Synthetic(3), system, horizon=48, seed=1).state
    windows[2, :1500] = torch.nan
    windows[1, 700:720] = torch.nan
    expected = median(windows[..., 0].numpy())
    # relative to the movement of each forecast: a large offset must not hide an error
    error = np.abs(rollout(system, windows) - expected).max(axis=1)
    assert np.all(error <= 1e-5 * np.abs(expected - offset).max(axis=1) + 4e-7 * offset), error


def test_short_series_are_padded_as_in_the_package(system: Forecaster) -> None:
    pytest.importorskip("statsmodels")
    for name, values in series.series().items():
        window = series.windows(values, count=1, seed=0)
        known = window[0, :, 0][np.isfinite(window[0, :, 0])]
        states = draw(Contexts(window, name=name, allow_nan=True), system, horizon=48 * BLOCKS)
        np.testing.assert_allclose(rollout(system, states.state)[0], median(known), rtol=1e-5)


def test_batch_rows_do_not_mix(system: Forecaster) -> None:
    windows = draw(Synthetic(3), system, horizon=48, seed=2).state
    together = rollout(system, windows, 1)
    alone = np.concatenate([rollout(system, windows[i : i + 1], 1) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)


def test_random_windows_are_series(system: Forecaster) -> None:
    windows = system.initial_state(4, torch.Generator().manual_seed(0))
    assert windows.shape == (4, 2048, 1)
    lag = (windows[:, 1:] * windows[:, :-1]).mean(dim=1)
    assert lag.min() > 0.2  # white noise has 0
