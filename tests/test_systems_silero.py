"""silero-vad rebuilt: bit-exact with the TorchScript original, on artificial and on recorded speech."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

import series
from tqs_fast.systems import Attractor, Contexts, Recurrent, Synthetic, draw, iterate, load_system
from tqs_fast.systems.silero_vad import original_path
from tqs_fast.systems.speech import speech_like

if find_spec("silero_vad") is None:
    pytest.skip("silero-vad is not installed", allow_module_level=True)
STEPS = 130


@pytest.fixture(scope="module")
def system() -> Recurrent:
    loaded = load_system("silero-vad")
    assert isinstance(loaded, Recurrent)
    return loaded


@pytest.fixture(scope="module")
def original() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(original_path()))


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def probabilities(system: Recurrent, state: Any, inputs: torch.Tensor) -> torch.Tensor:
    """[N, steps]"""
    return torch.stack([output[:, 0, 0] for _, output in iterate(system, state, inputs, inputs.shape[1])], dim=1)


def reference(original: Any, inputs: torch.Tensor) -> torch.Tensor:
    original.reset_states()
    with torch.no_grad():
        return torch.cat([original(inputs[:, t], 16_000) for t in range(inputs.shape[1])], dim=1)


@pytest.mark.parametrize("count", [1, 3])
def test_bit_exact_over_a_stream(system: Recurrent, original: Any, count: int) -> None:
    states = draw(Synthetic(count), system, horizon=STEPS, seed=1)
    assert states.inputs is not None
    got = probabilities(system, states.state, states.inputs)
    assert got.shape == (count, STEPS)
    assert torch.equal(got, reference(original, states.inputs))
    assert got.std() > 0.2  # a stuck output would be equal too


def test_bit_exact_on_recorded_speech(system: Recurrent, original: Any) -> None:
    recorded = series.speech(2, STEPS, seed=0)
    if recorded is None:
        pytest.skip(f"recorded speech comes from the Debian package {series.SPEECH_PACKAGE}")
    silence = system.initial_state(2, torch.Generator())
    states = draw(Contexts(silence, inputs=recorded, name="speech"), system, horizon=STEPS)
    assert states.inputs is not None
    got = probabilities(system, states.state, states.inputs)
    assert torch.equal(got, reference(original, states.inputs))
    assert (got.std(dim=1) > 0.2).all()


def test_weights_and_constants(system: Recurrent) -> None:
    # with the fixed transform (a buffer, 66,048 values): the 309,633 of the original
    assert sum(parameter.numel() for parameter in system.module.parameters()) == 309_633 - 66_048
    assert [name for name, _ in system.module.named_buffers()] == ["basis"]
    assert not system.module.training


def test_the_package_is_not_imported(system: Recurrent) -> None:
    assert "silero_vad" not in sys.modules
    assert "torchaudio" not in sys.modules


def test_artificial_speech_swings_the_detector(system: Recurrent) -> None:
    states = draw([Attractor(8), Synthetic(8)], system, horizon=96, seed=7)
    assert states.inputs is not None
    got = probabilities(system, states.state, states.inputs)
    assert got.std(dim=1).mean() > 0.2
    both = (got > 0.5).any(dim=1) & (got < 0.5).any(dim=1)
    assert both.float().mean() >= 0.75
    assert 0.25 < (got > 0.5).float().mean() < 0.85


def test_artificial_speech_is_reproducible_and_bounded() -> None:
    audio = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        audio.append(speech_like(3, 20_000, torch.Generator().manual_seed(5)))
    assert torch.equal(audio[0], audio[1])
    assert audio[0].shape == (3, 20_000)
    assert audio[0].dtype == torch.float32
    assert audio[0].abs().max() <= 1
    assert audio[0].std(dim=1).min() > 0.005
    other = speech_like(3, 20_000, torch.Generator().manual_seed(6))
    assert np.abs(np.corrcoef(torch.cat([audio[0], other]).numpy()) - np.eye(6)).max() < 0.5
