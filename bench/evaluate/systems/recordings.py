"""Recorded series that ship inside wheels: read by path, nothing downloaded, nothing imported.

ecg        sktime `mitdb`: two-lead arrhythmia record of the MIT-BIH database, 7500 samples, 360 a second
pressure   aeon `KDD-TSAD_135`: arterial blood pressure (UCR anomaly archive, InternalBleeding16), 7501 samples
elnino     statsmodels: monthly temperature of the sea, 732 values
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))
import series

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Recording:
    """One series.

    Attributes:
        source: reads it whole, `[values]`.
        every: samples taken as one value; the `every` interleaved series that start one sample apart are all used.
        trained: share of the record, from its beginning, that networks are trained on; they are judged on the rest.
        season: values after which it nearly repeats, for the naive forecast of MASE.
    """

    source: Callable[[], Array]
    every: int
    trained: float
    season: int

    def part(self, *, judged: bool) -> Array:
        """`[every, values, 1]`, standardised by the part that networks are trained on."""
        raw = self.source()
        edge = round(self.trained * len(raw))
        seen = raw[:edge]
        chosen = raw[edge:] if judged else seen
        values = len(chosen) // self.every
        phases = chosen[: values * self.every].reshape(values, self.every).T
        return ((phases - seen.mean()) / seen.std())[..., None]


@cache
def read(package: str, file: str, column: int) -> Array:
    """One column of a file of an installed package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"[read] {package} is not installed: pip install --no-deps -r bench/evaluate/requirements.txt"
        )
    path = Path(spec.submodule_search_locations[0], file)
    return np.genfromtxt(path, delimiter=",", skip_header=1, usecols=column)


PRESSURE = "datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_TEST.csv"
RECORDINGS = {
    "ecg": Recording(lambda: read("sktime", "datasets/data/mitdb/mitdb.csv", 0), 6, 0.6, 48),
    "pressure": Recording(lambda: read("aeon", PRESSURE, 1), 6, 0.6, 30),
    "elnino": Recording(lambda: series.series()["elnino"].astype(np.float64), 1, 0.6, 12),
}


def windows(values: Array, length: int, count: int, *, seed: int) -> Array:
    """`[count, length, C]` at random places of `values` [S, T, C]."""
    rng = np.random.default_rng(seed)
    which = rng.integers(len(values), size=count)
    first = rng.integers(values.shape[1] - length + 1, size=count)
    return np.stack([values[w, f : f + length] for w, f in zip(which, first, strict=True)])
