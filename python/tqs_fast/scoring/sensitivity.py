"""What a scoring run measured: damage of every layer at every bit-width, with how it was obtained."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tqs_fast._files import Fields, encode_array, json_copy, read_json, write_json
from tqs_fast._table import Table, format_count, format_number
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.quantization import BITS, Quantizer
from tqs_fast.scoring.figures import table_figure

FORMAT = "tqs-fast/sensitivity"
VERSION = 1

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """One quantizable weight tensor.

    Attributes:
        name: its name in `module.named_parameters()`.
        kind: the class of the module that holds it, e.g. "Linear".
        shape: of the tensor, `[out, ...]`.
        parameters: number of weights, the product of `shape`.

    Raises:
        ArgumentError: an empty name or shape, or a count that contradicts the shape.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not self.name:
            raise ArgumentError("[Layer] expected a name, got an empty string")
        if not self.shape or min(self.shape) < 1:
            raise ArgumentError(f"[Layer] {self.name}: expected a shape of sizes >= 1, got {self.shape}")
        if self.parameters != math.prod(self.shape):
            raise ArgumentError(
                f"[Layer] {self.name}: expected {math.prod(self.shape)} parameters for shape {self.shape}, "
                f"got {self.parameters}"
            )


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Damage of L layers at B bit-widths, over N initial conditions in F families and T steps.

    All errors are scaled by the standard deviation of the reference channels, so damages have no unit. Arrays are
    read-only. A rollout that diverged has damage `inf`, which no allocator chooses.

    Attributes:
        layers: the L layers, in the order of `module.named_parameters()`.
        bits: the B bit-widths, increasing.
        quantizer: how the weights were rounded.
        samples: damage per initial condition (mean over time of the squared scaled error), float64 [L, B, N];
            zero or more, `inf` where the rollout diverged.
        families: the F kinds of initial conditions.
        family_of: family of each initial condition, int [N].
        curve: mse_t, float64 [L, B, T].
        relative_error: ‖r‖² / ‖θ‖² of the rounding error, float64 [L, B].
        gain: damage per unit of relative weight-error energy, float64 [L]; nan where it cannot be computed.
        growth_rate: slope of ½ log mse_t, natural log per step, float64 [L]; nan where it cannot be fitted.
        growth_window: steps [first, end) the growth rate was fitted on, int [L, 2].
        probe_stderr: standard error of the damage over random probes, float64 [L, B]; zero for a method without any.
        provenance: how it was obtained (system, fingerprint, horizon, initial, seed, engine, versions, method), in
            JSON values.

    Raises:
        ArgumentError: shapes or values that contradict each other, with the field's name.
    """

    layers: tuple[Layer, ...]
    bits: tuple[int, ...]
    quantizer: Quantizer
    samples: FloatArray
    families: tuple[str, ...]
    family_of: IntArray
    curve: FloatArray
    relative_error: FloatArray
    gain: FloatArray
    growth_rate: FloatArray
    growth_window: IntArray
    probe_stderr: FloatArray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "layers", tuple(self.layers))
        set_field(self, "bits", tuple(int(bits) for bits in self.bits))
        set_field(self, "families", tuple(self.families))
        set_field(self, "provenance", json_copy(dict(self.provenance), function="Sensitivity", name="provenance"))
        _check_names("layers", [layer.name for layer in self.layers])
        _check_names("families", list(self.families))
        if not self.bits or list(self.bits) != sorted(set(self.bits)) or not set(self.bits) <= set(BITS):
            raise ArgumentError(f"[Sensitivity] expected bits increasing and among {BITS}, got {self.bits}")
        L, B = len(self.layers), len(self.bits)
        self._store("samples", (L, B, None))
        self._store("curve", (L, B, None))
        self._store("relative_error", (L, B))
        if self.probe_stderr is None:
            set_field(self, "probe_stderr", np.zeros((L, B)))
        self._store("probe_stderr", (L, B))
        self._store("gain", (L,))
        self._store("growth_rate", (L,))
        self._store("family_of", (self.samples.shape[2],), integer=True)
        self._store("growth_window", (L, 2), integer=True)
        # `not >= 0` also catches NaN: a diverged rollout is inf, and NaN would make every sum over it meaningless.
        bad = np.argwhere(~(self.samples >= 0))
        if len(bad):
            layer, column, sample = (int(index) for index in bad[0])
            raise ArgumentError(
                f"[Sensitivity] expected samples >= 0, or inf for a rollout that diverged, got "
                f"{self.samples[layer, column, sample]} for {self.layers[layer].name} at {self.bits[column]} bits, "
                f"initial condition {sample}"
            )
        if not np.array_equal(np.unique(self.family_of), np.arange(len(self.families))):
            raise ArgumentError(
                f"[Sensitivity] expected family_of to hold each of 0..{len(self.families) - 1}, "
                f"got {np.unique(self.family_of).tolist()}"
            )
        first, end = self.growth_window.T
        if not bool(np.all((first >= 0) & (first <= end) & (end <= self.curve.shape[2]))):
            raise ArgumentError(
                f"[Sensitivity] expected growth_window rows 0 <= first <= end <= {self.curve.shape[2]} steps"
            )

    def _store(self, name: str, shape: tuple[int | None, ...], *, integer: bool = False) -> None:
        """Replace the field by a read-only copy, after checking it against `shape` (None: any size from 1 up)."""
        given = np.asarray(getattr(self, name))
        kinds, dtype = ("iu", np.int64) if integer else ("fiu", np.float64)
        fits = len(given.shape) == len(shape) and all(
            got == want or (want is None and got > 0) for got, want in zip(given.shape, shape, strict=True)
        )
        if given.dtype.kind not in kinds or not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ArgumentError(
                f"[Sensitivity] expected {name} of {'integers' if integer else 'numbers'} with shape [{wanted}], "
                f"got {given.dtype} {list(given.shape)}"
            )
        array = np.array(given, dtype=dtype, order="C")
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    @cached_property
    def damage_of_family(self) -> FloatArray:
        """Mean damage over the initial conditions of each family, [F, L, B]."""
        return _read_only(np.stack([_mean(part) for part in self._parts()]))

    @cached_property
    def damage(self) -> FloatArray:
        """Mean over families of the family mean (each family weighs the same), [L, B]."""
        return _read_only(_mean(np.moveaxis(self.damage_of_family, 0, -1)))

    @cached_property
    def stderr(self) -> FloatArray:
        """Standard error of `damage` over initial conditions and probes, [L, B].

        The root of Σ_f s_f² / n_f / F² + probe_stderr² with s_f² the sample variance in family f; nan where a family
        has one initial condition only or a rollout diverged.
        """
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            squared = [
                np.square(part - _mean(part)[..., None]).sum(axis=-1)
                / np.float64(part.shape[-1] - 1)
                / np.float64(part.shape[-1])
                for part in self._parts()
            ]
            probes = np.square(np.asarray(self.probe_stderr))
            error = np.sqrt(np.sum(squared, axis=0) / len(self.families) ** 2 + probes)
        return _read_only(np.where(np.isfinite(error) & np.isfinite(self.damage), error, np.nan))

    def _parts(self) -> list[FloatArray]:
        # Contiguous, so that sums run in the same order whatever the number of layers.
        return [np.ascontiguousarray(self.samples[:, :, self.family_of == f]) for f in range(len(self.families))]

    def table(self) -> Table:
        """One row per layer, in order: name, kind, parameters, gain, growth rate, damage ± stderr at each bit-width."""
        columns = ("layer", "kind", "parameters", "gain", "growth/step", *(f"damage, {b} bits" for b in self.bits))
        rows = tuple(
            (
                layer.name,
                layer.kind,
                format_count(layer.parameters),
                format_number(float(self.gain[i])),
                format_number(float(self.growth_rate[i])),
                *(_damage_cell(float(self.damage[i, j]), float(self.stderr[i, j])) for j in range(len(self.bits))),
            )
            for i, layer in enumerate(self.layers)
        )
        counts = [f"{int((self.family_of == f).sum())} {name}" for f, name in enumerate(self.families)]
        caption = f"{len(self.layers)} layers, {self.curve.shape[2]} steps, initial conditions: {', '.join(counts)}"
        return Table(columns, rows, (False, False) + (True,) * (len(columns) - 2), caption)

    def __str__(self) -> str:
        return str(self.table())

    def plot(self) -> Any:
        """Error curves of every layer and the heat map of layer x bits, as a `matplotlib.figure.Figure`.

        Raises:
            ArgumentError: matplotlib is not installed (the extra "plots").
        """
        return table_figure([layer.name for layer in self.layers], self.bits, self.damage, self.curve)

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `save` writes; NaN is None, infinity "inf"."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "layers": layers_to_json(self.layers),
            "bits": list(self.bits),
            "quantizer": asdict(self.quantizer),
            "families": list(self.families),
            "family_of": encode_array(self.family_of),
            "gain": encode_array(self.gain),
            "growth_rate": encode_array(self.growth_rate),
            "growth_window": encode_array(self.growth_window),
            "relative_error": encode_array(self.relative_error),
            "probe_stderr": encode_array(np.asarray(self.probe_stderr)),
            "samples": encode_array(self.samples),
            "curve": encode_array(self.curve),
            "provenance": json_copy(self.provenance, function="Sensitivity.to_json", name="provenance"),
            # Derived, for readers of the file in other languages; `load` computes them again.
            "damage": encode_array(self.damage),
            "stderr": encode_array(self.stderr),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, atomically.

        Raises:
            ArgumentError: the path cannot be written.
        """
        write_json(path, self.to_json(), function="Sensitivity.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """Read a table that `save` wrote, bit for bit.

        Raises:
            FileFormatError: missing, truncated, foreign, of another version, or inconsistent in itself.
        """
        fields = read_json(path, format=FORMAT, version=VERSION, function="Sensitivity.load")
        try:
            return cls(
                layers=layers_from_json(fields),
                bits=tuple(fields.integers("bits").tolist()),
                quantizer=quantizer_from_json(fields),
                samples=fields.array("samples", 3),
                families=fields.texts("families"),
                family_of=fields.integers("family_of"),
                curve=fields.array("curve", 3),
                relative_error=fields.array("relative_error", 2),
                gain=fields.array("gain", 1),
                growth_rate=fields.array("growth_rate", 1),
                growth_window=fields.integers("growth_window", 2),
                probe_stderr=fields.array("probe_stderr", 2),
                provenance=fields.object("provenance"),
            )
        except ArgumentError as error:
            raise FileFormatError(f"{fields.where}: inconsistent content: {error}") from error


def layers_to_json(layers: tuple[Layer, ...]) -> list[dict[str, Any]]:
    """The "layers" field of a result file."""
    return [
        {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "parameters": layer.parameters}
        for layer in layers
    ]


def layers_from_json(fields: Fields) -> tuple[Layer, ...]:
    """The layers of a result file. Raises FileFormatError or ArgumentError."""
    return tuple(
        Layer(item.text("name"), item.text("kind"), tuple(item.integers("shape").tolist()), item.integer("parameters"))
        for item in fields.items("layers")
    )


def quantizer_from_json(fields: Fields) -> Quantizer:
    """The quantizer of a result file. Raises FileFormatError or ArgumentError."""
    values = fields.fields("quantizer")
    return Quantizer(
        group_size=values.integer("group_size"), symmetric=values.boolean("symmetric"), search=values.text("search")
    )


def _check_names(field_name: str, names: list[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if not names or repeated:
        got = f"{repeated[0]!r} twice" if repeated else "none"
        raise ArgumentError(f"[Sensitivity] expected at least one of {field_name}, each named once, got {got}")


def _mean(values: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.asarray(np.ascontiguousarray(values).mean(axis=-1), dtype=np.float64)


def _read_only(values: FloatArray) -> FloatArray:
    values.flags.writeable = False
    return values


def _damage_cell(damage: float, stderr: float) -> str:
    if math.isinf(damage):
        return "diverged"
    return format_number(damage) if math.isnan(stderr) else f"{format_number(damage)} ± {format_number(stderr, 1)}"
