"""What several studies need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tqs_fast as tqs
from evaluate.cells import Setting
from evaluate.methods import METHODS, QUANTIZER, Scored
from evaluate.subject import InitialConditions, Subject

Array = np.ndarray[Any, np.dtype[np.float64]]


def setting(subject: Subject, horizon: int, seed: int, folder: Path) -> Setting:
    """The tables that the cells of this horizon and seed have, or will have."""
    return Setting(subject, horizon, seed, folder, METHODS)


def scorers() -> list[str]:
    """Every method with a table."""
    return [method.name for method in METHODS if isinstance(method, Scored)]


def residual(subject: Subject, initial: Sequence[InitialConditions], horizon: int, seed: int) -> tqs.Sensitivity:
    """A table measured on other initial conditions than the suite's."""
    method = tqs.Residual(quantizer=QUANTIZER)
    return tqs.score(subject.system, horizon=horizon, method=method, initial=list(initial), seed=seed)


def column(table: tqs.Sensitivity, bits: int) -> Array:
    """Damage of every layer at `bits`."""
    return np.asarray(table.damage[:, table.bits.index(bits)])


def shown(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"
