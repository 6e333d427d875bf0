"""Sensitivity tables made by rule, and an allocator that tries every plan, in arithmetic of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tqs_fast.quantization import Quantizer
from tqs_fast.scoring.sensitivity import Layer, Sensitivity

BITS = (2, 3, 4, 8)
KINDS = ("usual", "noisy", "non-convex", "range", "integers", "equal", "zero", "diverged")


def make_table(
    damage: npt.ArrayLike,
    shapes: Sequence[tuple[int, ...]],
    *,
    bits: tuple[int, ...] = BITS,
    quantizer: Quantizer | None = None,
    names: Sequence[str] | None = None,
) -> Sensitivity:
    """A table with one initial condition, so that its damage is `damage` [L, B] to the bit."""
    values = np.asarray(damage, dtype=np.float64)
    count = len(shapes)
    names = names or [f"block.{i}.weight" for i in range(count)]
    return Sensitivity(
        layers=tuple(Layer(n, "Linear", s, math.prod(s)) for n, s in zip(names, shapes, strict=True)),
        bits=bits,
        quantizer=quantizer or Quantizer(group_size=32),
        samples=values[:, :, None],
        families=("attractor",),
        family_of=np.zeros(1, dtype=np.int64),
        curve=np.ones((count, len(bits), 2)),
        relative_error=np.ones((count, len(bits))),
        gain=np.ones(count),
        growth_rate=np.zeros(count),
        growth_window=np.zeros((count, 2), dtype=np.int64),
        provenance={"system": "made"},
    )


def make_damage(kind: str, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Damages [count, 4] of one character."""
    usual = np.exp(rng.normal(size=(count, 1)) * 2) * np.array([1.0, 0.22, 0.05, 2e-4])
    if kind == "noisy":  # not monotone in bits
        return usual * np.exp(rng.normal(size=(count, 4)) * 2)
    if kind == "non-convex":
        return np.sort(rng.random((count, 4)), axis=1)[:, ::-1].copy()
    if kind == "range":  # 1e-9 ... 1e2 in one table
        return 10.0 ** rng.uniform(-9, 2, size=(count, 4))
    if kind == "integers":  # many exact ties
        return rng.integers(0, 4, size=(count, 4)).astype(np.float64)
    if kind == "equal":
        return np.full((count, 4), 0.1)
    if kind == "zero":
        return np.zeros((count, 4))
    if kind == "diverged":
        usual[rng.random((count, 4)) < 0.3] = math.inf
        usual[:, 3] = np.where(np.isinf(usual[:, 3]), 1e-3, usual[:, 3])
    return usual


def make_shapes(count: int, rng: np.random.Generator, *, equal: bool = False) -> list[tuple[int, ...]]:
    """Shapes [out, in] with short rows, ragged groups and one-column matrices among them."""
    if equal:
        return [(8, 40)] * count
    return [(int(rng.integers(1, 20)), int(rng.choice([1, 3, 31, 32, 33, 70]))) for _ in range(count)]


def stored_bytes(shape: tuple[int, ...], bits: int | None, quantizer: Quantizer) -> int:
    """The format's arithmetic, written out again: codes padded to bytes by row, 2 bytes a scale, 1 a zero point."""
    rows, columns = shape[0], math.prod(shape[1:])
    if bits is None:
        return 4 * rows * columns
    groups = -(-columns // (quantizer.group_size or columns))
    return rows * (-(-columns * bits // 8) + groups * (2 if quantizer.symmetric else 3))


@dataclass(frozen=True)
class Tried:
    """One plan of the exhaustive search: exact damage, size, bits of every layer (32: float)."""

    damage: Fraction
    bytes: int
    bits: tuple[int, ...]


def every_plan(
    table: Sensitivity, groups: Sequence[Sequence[int]] = (), frozen: dict[int, int | None] | None = None
) -> Iterator[Tried]:
    """All plans that respect the tied `groups` (layer indices) and `frozen` layers and use no diverged choice."""
    frozen = frozen or {}
    tied = [tuple(group) for group in groups]
    tied += [(i,) for i in range(len(table.layers)) if not any(i in group for group in tied)]
    menus = [[frozen[group[0]]] if group[0] in frozen else list(table.bits) for group in tied]
    for picks in itertools.product(*menus):
        damage, size, bits = Fraction(0), 0, [0] * len(table.layers)
        for group, pick in zip(tied, picks, strict=True):
            for i in group:
                measured = 0.0 if pick is None else float(table.damage[i, table.bits.index(pick)])
                if math.isinf(measured):
                    break
                damage += Fraction(measured)
                size += stored_bytes(table.layers[i].shape, pick, table.quantizer)
                bits[i] = pick or 32
            else:
                continue
            break
        else:
            yield Tried(damage, size, tuple(bits))
