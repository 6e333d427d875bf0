"""Options that several subcommands share, and how their text becomes arguments of the library."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization import Quantizer
from tqs_fast.systems import Attractor, InitialConditions, Synthetic, System

SystemName: TypeAlias = Annotated[
    str, typer.Argument(metavar="SYSTEM", help="lorenz-gru, fracast, silero-vad, pkg.module:factory or model.onnx")
]


def writable(path: Path | None) -> Path | None:
    """`path`, if a file can be written there: known before anything is computed, not after."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        why = "it is a folder" if path.is_dir() else f"{path.parent} is no folder that can be written to"
        raise ArgumentError(f"[output] cannot write {path}: {why}; choose another path")
    return path


def output(*names: str, help: str) -> Any:
    """An option that names a file to write."""
    return typer.Option(*names, help=help, callback=writable)


Horizon: TypeAlias = Annotated[int, typer.Option(help="Output values per rollout.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of initial conditions and noise.")]
Count: TypeAlias = Annotated[int, typer.Option(help="Initial conditions per family.")]
Initial: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Where rollouts start: attractor or synthetic; repeat for several families. [default: the system's]"
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Out: TypeAlias = Annotated[Path | None, output("--out", "-o", help="Also write the result to this file.")]
GroupSize: TypeAlias = Annotated[int, typer.Option(help="Weights per scale: 32, 64, 128, or 0 for one per channel.")]
Asymmetric: TypeAlias = Annotated[bool, typer.Option("--asymmetric", help="Store zero points.")]

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_initial(names: list[str] | None, count: int, system: System) -> list[InitialConditions]:
    """Families from their names."""
    known = {"attractor": Attractor, "synthetic": Synthetic}
    families: list[InitialConditions] = []
    for name in names or [system.default_initial]:
        if name not in known:
            raise ArgumentError(f"[--initial] expected attractor or synthetic, got {name!r}")
        families.append(known[name](count=count))
    return families


def parse_bits(text: str) -> tuple[int, ...]:
    """`2,3,4,8` as numbers."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise ArgumentError(f"[--bits] expected numbers such as 2,3,4,8, got {text!r}") from error


def parse_size(text: str) -> int:
    """`512M`, `2GiB` or a plain number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, flags=re.IGNORECASE)
    if match is None:
        raise ArgumentError(f"[size] expected bytes such as 1500000, 512M or 2GiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_quantizer(group_size: int, asymmetric: bool) -> Quantizer:
    """The quantizer that the format options describe."""
    return Quantizer(group_size=group_size, symmetric=not asymmetric)
