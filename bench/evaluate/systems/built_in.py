"""The systems that ship with the package or in wheels: lorenz-gru, fracast, silero-vad."""

from __future__ import annotations

import numpy as np
import torch

import tqs_fast as tqs
from evaluate.subject import HORIZONS, Judge, Subject, naive_error
from evaluate.systems.recordings import RECORDINGS, series
from tqs_fast.systems import lorenz63
from tqs_fast.systems.lorenz_gru import WARM_UP, warm_up

FRACAST_CONTEXT = 2048
WINDOWS = 8  # of each real series, for fracast; they overlap, so that more would not say more
SEASONS = {"co2": 52, "elnino": 12, "sunspots": 11}
NOISE_SEED = 77  # of the noise that scorers hear; no judge has it
NOISE = (0.001, 0.3)  # standard deviations of the noise that silero-vad listens to, of full scale


def lorenz_gru() -> Subject:
    """Judged on its own attractor and on the true flow."""
    system = tqs.load_system("lorenz-gru")

    def judges(seed: int, horizon: int) -> list[Judge]:
        path = lorenz63.standardise(lorenz63.trajectories(128, WARM_UP + 1 + horizon, seed=seed))
        known = torch.from_numpy(path[:, : WARM_UP + 1]).float()
        with torch.no_grad():
            state = warm_up(system.module, known)
        return [
            Judge("attractor", tqs.Attractor(count=128)),
            Judge(
                "truth",
                tqs.Contexts(state, name="truth"),
                path[:, WARM_UP + 1 :],
                naive_error(path[:, : WARM_UP + 1], 1),
            ),
        ]

    return Subject(system, (tqs.Attractor(count=128),), judges, lorenz63.LYAPUNOV * lorenz63.STEP)


def fracast() -> Subject:
    """Judged on synthetic series and on five recorded ones."""
    system = tqs.load_system("fracast")

    def judges(seed: int, horizon: int) -> list[Judge]:
        found = [Judge("synthetic", tqs.Synthetic(count=12))]
        for number, (name, (values, season)) in enumerate(real_series().items()):
            contexts, after = continued(values, horizon, seed=1000 * number + seed)
            naive = naive_error(contexts.astype(np.float64), season)
            found.append(Judge(name, tqs.Contexts(contexts, name=name, allow_nan=True), after, naive))
        return found

    return Subject(system, (tqs.Synthetic(count=12),), judges)


def real_series() -> dict[str, tuple[series.Array, int]]:
    """Name -> values and season."""
    found = {name: (values, SEASONS[name]) for name, values in series.series().items()}
    for name in ("ecg", "pressure"):
        recording = RECORDINGS[name]
        found[name] = (recording.source()[:: recording.every].astype(np.float32), recording.season)
    return found


def continued(values: series.Array, horizon: int, *, seed: int) -> tuple[series.Array, np.ndarray]:
    """Contexts `[N, 2048, 1]`, NaN where a window reaches back before the series, and the `horizon` values after each,
    float64.
    """
    known = values[: len(values) - horizon]
    contexts = series.windows(known, FRACAST_CONTEXT, count=WINDOWS, seed=seed)
    # the same draw without padding tells where each window ends
    earliest = min(FRACAST_CONTEXT, len(known) // 2)
    ends = np.random.default_rng(seed).choice(np.arange(earliest, len(known) + 1), size=WINDOWS, replace=False)
    after = np.stack([values[end : end + horizon] for end in ends])
    return contexts, after[..., None].astype(np.float64)


def silero() -> Subject:
    """Scored on synthetic speech and noise; judged on both and, where the recordings are installed, on recorded speech.

    A detector meets both in use, and plans made for one of them can hurt on the other.
    """
    system = tqs.load_system("silero-vad")
    streams = 64

    def heard(audio: series.Array, name: str) -> tqs.Contexts:
        state = system.initial_state(len(audio), torch.Generator())
        return tqs.Contexts(state, inputs=torch.from_numpy(audio), name=name)

    def judges(seed: int, horizon: int) -> list[Judge]:
        found = [
            Judge("synthetic speech", tqs.Attractor(count=streams)),
            Judge("noise", heard(noise(streams, horizon, seed), "noise")),
        ]
        recorded = series.speech(streams, horizon, seed=seed)
        if recorded is not None:
            found.append(Judge("recorded speech", heard(recorded, "recorded speech")))
        return found

    # twice as many, because a search takes one half of given streams to decide on
    own = heard(noise(2 * streams, max(HORIZONS), NOISE_SEED), "noise")
    return Subject(system, (tqs.Attractor(count=streams), own), judges)


def noise(count: int, steps: int, seed: int) -> series.Array:
    """`[count, steps, 512]` white noise, each stream of its own loudness."""
    rng = np.random.default_rng(seed)
    low, high = np.log(NOISE)
    loudness = np.exp(rng.uniform(low, high, (count, 1, 1)))
    return (loudness * rng.standard_normal((count, steps, series.CHUNK))).clip(-1, 1).astype(np.float32)


SUBJECTS = {"lorenz-gru": lorenz_gru, "fracast": fracast, "silero-vad": silero}
