"""The loaders of real recordings."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

import series


def test_series_are_complete() -> None:
    pytest.importorskip("statsmodels")
    found = series.series()
    assert {name: len(values) for name, values in found.items()} == {"co2": 2284, "elnino": 732, "sunspots": 309}
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in found.values())
    yearly = found["elnino"] - found["elnino"].mean()
    assert (yearly[12:] * yearly[:-12]).mean() / yearly.var() > 0.5  # months in order: a yearly cycle


def test_windows_pad_short_series_on_the_left() -> None:
    values = np.arange(100, dtype=np.float32)
    got = series.windows(values, 80, count=20, seed=1)
    assert got.shape == (20, 80, 1)
    ends = got[:, -1, 0].astype(int)
    assert len(set(ends)) == 20
    assert ends.min() >= 49
    for window, end in zip(got[..., 0], ends, strict=True):
        known = window[np.isfinite(window)]
        np.testing.assert_array_equal(known, np.arange(max(0, end - 79), end + 1))
        assert np.isnan(window[: 80 - len(known)]).all()
    long = series.windows(np.arange(300, dtype=np.float32), 80, count=50)
    assert np.isfinite(long).all()
    np.testing.assert_array_equal(got, series.windows(values, 80, count=20, seed=1))


def test_speech_is_none_without_recordings(tmp_path: Path) -> None:
    assert series.speech(1, 4, folder=tmp_path) is None


def test_speech_reads_wave_and_raw(tmp_path: Path) -> None:
    tone = (8000 * np.sin(np.arange(16_000))).astype("<i2").tobytes()
    (tmp_path / "tone.raw").write_bytes(tone)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone)
    with wave.open(str(tmp_path / "other rate.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"\x7f" * 32_000)
    got = series.speech(3, 50, seed=2, folder=tmp_path)
    assert got is not None
    assert got.shape == (3, 50, 512)
    assert got.dtype == np.float32
    assert 0.1 < np.abs(got).max() < 0.25  # the other rate would reach 1
    again = series.speech(3, 50, seed=2, folder=tmp_path)
    assert again is not None
    np.testing.assert_array_equal(got, again)
    assert not np.array_equal(got[0], got[1])
