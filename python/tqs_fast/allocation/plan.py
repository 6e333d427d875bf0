"""A plan: the number of bits of every layer, what it costs, what it is predicted to damage, and its activations."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from tqs_fast import kernels
from tqs_fast._files import Fields, check_document, encode_array, json_copy, read_json, write_json
from tqs_fast._table import Table, format_count, format_number
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.quantization import BITS, Quantizer
from tqs_fast.quantization.blocks import parse_name
from tqs_fast.scoring.sensitivity import Layer, layers_from_json, layers_to_json, quantizer_from_json

FORMAT = "tqs-fast/plan"
VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Bits for every layer.

    Attributes:
        bits: number of bits by layer name, one entry for each layer in their order; None keeps float32.
        layers: the planned layers.
        quantizer: how they are rounded.
        predicted_damage: sum of the measured damages of the layers (first order), no unit; nan when unknown.
        method: the allocator, or "manual".
        budget: what was asked for, e.g. {"average_bits": 4.0}.
        provenance: where the plan comes from, JSON values.
        damage: measured damage by layer name, or empty when unknown.
        activations: "int8" by layer name where the packed weight rounds the rows it multiplies to 8 bits (`ops.qgemm`);
            layers not named multiply them as they are ("float"). Predicted damages are of the weights alone: see
            `choose_activations`.

    Raises:
        ArgumentError: bits, damages or activations that do not match the layers, or values out of range.
    """

    bits: dict[str, int | None]
    layers: tuple[Layer, ...]
    quantizer: Quantizer = field(default_factory=Quantizer)
    predicted_damage: float = math.nan
    method: str = "manual"
    budget: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    damage: dict[str, float] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        names = [layer.name for layer in self.layers]
        if not names or len(set(names)) != len(names):
            raise ArgumentError(f"[Plan] expected at least one layer, each named once, got {len(names)} layers")
        if set(self.bits) != set(names):
            wrong = sorted(set(self.bits) ^ set(names))[0]
            raise ArgumentError(
                f"[Plan] expected bits for exactly the planned layers, {wrong!r} is in one but not the other"
            )
        for name, bits in self.bits.items():
            if bits is not None and (isinstance(bits, bool) or bits not in BITS):
                raise ArgumentError(f"[Plan] expected bits[{name!r}] among {BITS} or None (float), got {bits!r}")
        if self.damage and set(self.damage) != set(names):
            raise ArgumentError("[Plan] expected damage for all planned layers or for none")
        for value in (self.predicted_damage, *self.damage.values()):
            if value < 0:
                raise ArgumentError(f"[Plan] expected damages >= 0, got {value}")
        set_field(self, "layers", tuple(self.layers))
        set_field(self, "bits", {name: self.bits[name] for name in names})
        set_field(self, "damage", {name: float(self.damage[name]) for name in names if self.damage})
        set_field(self, "activations", self._checked_activations())
        set_field(self, "budget", json_copy(self.budget, function="Plan", name="budget"))
        set_field(self, "provenance", json_copy(self.provenance, function="Plan", name="provenance"))

    def _checked_activations(self) -> dict[str, str]:
        """Those that are "int8", in the order of the layers."""
        for name, activation in self.activations.items():
            if name not in self.bits:
                raise ArgumentError(f"[Plan] expected activations of planned layers, got one of {name!r}")
            if activation not in kernels.ACTIVATIONS:
                raise ArgumentError(
                    f"[Plan] expected activations[{name!r}] among {kernels.ACTIVATIONS}, got {activation!r}"
                )
            if activation == "int8" and self.bits[name] is None:
                raise ArgumentError(
                    f"[Plan] expected int8 activations of packed layers only, but {name!r} is kept float; leave it out"
                )
        rounded = {name: "int8" for name in self.bits if self.activations.get(name) == "int8"}
        weights = {parse_name(name)[0] for name in rounded}
        for name in self.bits:
            if name not in rounded and parse_name(name)[0] in weights:
                raise ArgumentError(
                    f"[Plan] expected the same activations for all row blocks of a weight, {name!r} differs; they "
                    "multiply the same rows"
                )
        return rounded

    def bytes_of(self, name: str) -> int:
        """Stored size of one layer: codes, scales, zero points and padding."""
        layer = next((layer for layer in self.layers if layer.name == name), None)
        if layer is None:
            raise ArgumentError(f"[Plan.bytes_of] expected a planned layer, got {name!r}")
        return self.quantizer.bytes(layer.shape, self.bits[name])

    @property
    def bytes(self) -> int:
        """Stored size of all planned layers."""
        return sum(self.quantizer.bytes(layer.shape, self.bits[layer.name]) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights in the planned layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def average_bits(self) -> float:
        """Effective bits a weight over all planned layers: scales, zero points, padding and float layers count."""
        return 8 * self.bytes / self.parameters

    @property
    def compression(self) -> float:
        """float32 bytes over bytes, for the planned layers."""
        return 4 * self.parameters / self.bytes

    def summary(self) -> str:
        """One line: method, size, predicted damage, and how many layers round their activations, if any."""
        rounded = f", int8 activations in {len(self.activations)} of {len(self.layers)} layers"
        return (
            f"{self.method}: {self.average_bits:.3f} average bits, {format_count(self.bytes)} bytes, "
            f"{self.compression:.2f}x smaller than float32, predicted damage {format_number(self.predicted_damage)}"
            + (rounded if self.activations else "")
        )

    def table(self) -> Table:
        """One row per layer: name, bits, activations if any are int8, bytes, damage, its share of the plan's damage."""
        total = math.fsum(self.damage.values()) if self.damage else math.nan
        rows = []
        for layer in self.layers:
            bits, damage = self.bits[layer.name], self.damage.get(layer.name, math.nan)
            share = damage / total if total > 0 and math.isfinite(total) else math.nan
            rows.append(
                (
                    layer.name,
                    "float" if bits is None else str(bits),
                    *([self.activations.get(layer.name, "float")] if self.activations else []),
                    format_count(self.quantizer.bytes(layer.shape, bits)),
                    format_number(damage),
                    "-" if math.isnan(share) else f"{100 * share:.1f} %",
                )
            )
        rounding = ("activations",) if self.activations else ()
        columns = ("layer", "bits", *rounding, "bytes", "damage", "share")
        return Table(columns, tuple(rows), (False, *[True] * (len(columns) - 1)), self.summary())

    def __str__(self) -> str:
        return str(self.table())

    def to_json(self) -> dict[str, Any]:
        """The content of the file that `save` writes; NaN is None."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "bits": dict(self.bits),
            "layers": layers_to_json(self.layers),
            "quantizer": asdict(self.quantizer),
            "predicted_damage": encode_array(self.predicted_damage),
            "method": self.method,
            "budget": json_copy(self.budget, function="Plan.to_json", name="budget"),
            "provenance": json_copy(self.provenance, function="Plan.to_json", name="provenance"),
            "damage": {name: encode_array(value) for name, value in self.damage.items()},
            "activations": dict(self.activations),
            # Derived, for readers of the file in other languages; `load` computes them again.
            "bytes": self.bytes,
            "average_bits": self.average_bits,
            "compression": self.compression,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, atomically.

        Raises:
            ArgumentError: the path cannot be written.
        """
        write_json(path, self.to_json(), function="Plan.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote.

        Raises:
            FileFormatError: missing, truncated, foreign, of another version, or inconsistent in itself.
        """
        return cls._from_fields(read_json(path, format=FORMAT, version=VERSION, function="Plan.load"))

    @classmethod
    def from_json(cls, document: object, *, function: str = "Plan.from_json") -> Plan:
        """The plan of a document that `to_json` made, e.g. out of the metadata of a model file.

        Raises:
            FileFormatError: foreign, of another version, or inconsistent in itself.
        """
        return cls._from_fields(check_document(document, format=FORMAT, version=VERSION, where=f"[{function}] plan"))

    @classmethod
    def _from_fields(cls, fields: Fields) -> Plan:
        bits, damage = fields.fields("bits"), fields.fields("damage")
        # Absent from plans that were written before there was a choice.
        activations = fields.fields("activations") if "activations" in fields else None
        try:
            return cls(
                bits={name: bits.optional_integer(name) for name in bits},
                layers=layers_from_json(fields),
                quantizer=quantizer_from_json(fields),
                predicted_damage=fields.number("predicted_damage"),
                method=fields.text("method"),
                budget=fields.object("budget"),
                provenance=fields.object("provenance"),
                damage={name: damage.number(name) for name in damage},
                activations={} if activations is None else {name: activations.text(name) for name in activations},
            )
        except ArgumentError as error:
            raise FileFormatError(f"{fields.where}: inconsistent content: {error}") from error
