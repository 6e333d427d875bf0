"""Real recordings for tests and benches: what packages ship, nothing downloaded.

Series come from statsmodels (in the `test` extra). Speech comes from the Debian package `pocketsphinx-testdata` (14
recordings of several people, 16 kHz: digits, playing cards, commands, a LibriVox reading; 45 s in all).
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]

SPEECH_PACKAGE = "pocketsphinx-testdata"
SPEECH_FOLDER = Path("/usr/share/pocketsphinx/test/data")
RATE = 16_000
CHUNK = 512


def series() -> dict[str, Array]:
    """Weekly co2 at Mauna Loa (2284), monthly El Niño sea temperature (732), yearly sunspots (309); gaps filled in."""
    from statsmodels.datasets import co2, elnino, sunspots

    monthly = elnino.load_pandas().data.drop(columns="YEAR").to_numpy().reshape(-1)
    columns = {
        "co2": co2.load_pandas().data["co2"].to_numpy(),
        "elnino": monthly,
        "sunspots": sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(),
    }
    return {name: _fill_gaps(np.asarray(values, dtype=np.float64)) for name, values in columns.items()}


def windows(values: Array, context: int = 2048, *, count: int, seed: int = 0) -> Array:
    """`[count, context, 1]`: everything known at `count` different times, the last `context` values of it.

    The times lie in the second half of the series (or after its first `context` values, where it is longer), without
    repeats. A window that reaches back before the series is NaN there, which is how fracast takes short series:
    stretching or repeating the record would invent data. Windows of one series overlap: they are not independent.
    """
    earliest = min(context, len(values) // 2)
    ends = np.random.default_rng(seed).choice(np.arange(earliest, len(values) + 1), size=count, replace=False)
    padded = np.concatenate([np.full(context, np.nan, dtype=np.float32), values])
    return np.stack([padded[end : end + context, None] for end in ends])


def speech(count: int, steps: int, *, seed: int = 0, folder: Path = SPEECH_FOLDER) -> Array | None:
    """`[count, steps, 512]` recorded speech in [-1, 1], or None where `SPEECH_PACKAGE` is not installed.

    Each stream is a random order of the recordings, 0.2 to 0.6 s of faint noise between them, entered at a random time.
    """
    recordings = _recordings(folder)
    if not recordings:
        return None
    rng = np.random.default_rng(seed)
    samples = steps * CHUNK
    streams = []
    for _ in range(count):
        offset = int(rng.integers(0, 4 * RATE))
        pieces: list[Array] = []
        while sum(map(len, pieces)) < samples + offset:
            for index in rng.permutation(len(recordings)):
                pieces.append(recordings[index])
                pieces.append(rng.normal(0, 1e-3, int(RATE * rng.uniform(0.2, 0.6))).astype(np.float32))
        streams.append(np.concatenate(pieces)[offset : offset + samples])
    return np.stack(streams).reshape(count, steps, CHUNK)


def _recordings(folder: Path) -> list[Array]:
    found = []
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE):
                found.append(_from_int16(file.readframes(file.getnframes())))
    found.extend(_from_int16(path.read_bytes()) for path in sorted(folder.rglob("*.raw")))
    return found


def _from_int16(data: bytes) -> Array:
    return np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768


def _fill_gaps(values: np.ndarray[Any, np.dtype[np.float64]]) -> Array:
    known = np.isfinite(values)
    times = np.arange(len(values))
    return np.interp(times, times[known], values[known]).astype(np.float32)
