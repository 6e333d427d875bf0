"""`tqs-fast score`: the sensitivity of every layer of a system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tqs_fast import scoring
from tqs_fast.cli import options
from tqs_fast.cli.output import print_json, print_line, print_table
from tqs_fast.errors import ArgumentError
from tqs_fast.scoring import rivals
from tqs_fast.scoring.direct import DirectMethod
from tqs_fast.scoring.methods import Method
from tqs_fast.systems import load_system


def score(
    system: options.SystemName,
    horizon: options.Horizon = 64,
    method: Annotated[
        str,
        typer.Option(
            help="residual, noise, tangent, adjoint; "
            "rivals: weight-error, hessian-trace, output-divergence, gradient-change."
        ),
    ] = "residual",
    bits: Annotated[str, typer.Option(help="Bit-widths to score.")] = "2,3,4,8",
    group_size: options.GroupSize = 128,
    asymmetric: options.Asymmetric = False,
    probes: Annotated[
        int | None,
        typer.Option(help="Random draws (noise, tangent, adjoint, hessian-trace). [default: the method's]"),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Relative size of the noise.")] = 0.02,
    initial: options.Initial = None,
    count: options.Count = 16,
    layers: Annotated[list[str] | None, typer.Option(help="Names or patterns; repeat. [default: all]")] = None,
    row_blocks: Annotated[int, typer.Option(help="Blocks of output rows per weight, each with bits of its own.")] = 1,
    engine: Annotated[str, typer.Option(help="auto, native, torch or serial.")] = "auto",
    seed: options.Seed = 0,
    memory_limit: Annotated[str | None, typer.Option(help="Most memory for a chunk of lanes, e.g. 2GiB.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for finished chunks; the same command resumes.")
    ] = None,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Score every layer: damage at each bit-width, gain and growth rate."""
    quantizer = options.parse_quantizer(group_size, asymmetric)
    menu = options.parse_bits(bits)
    drawn = {} if probes is None else {"probes": probes}
    known: dict[str, Callable[[], Method | DirectMethod]] = {
        "residual": lambda: scoring.Residual(bits=menu, quantizer=quantizer),
        "noise": lambda: scoring.Noise(**drawn, epsilon=epsilon, bits=menu, quantizer=quantizer),
        "tangent": lambda: scoring.Tangent(**drawn, bits=menu, quantizer=quantizer),
        "adjoint": lambda: scoring.Adjoint(**drawn, bits=menu, quantizer=quantizer),
        "weight-error": lambda: rivals.WeightError(bits=menu, quantizer=quantizer),
        "hessian-trace": lambda: rivals.HessianTrace(**drawn, bits=menu, quantizer=quantizer),
        "output-divergence": lambda: rivals.OutputDivergence(bits=menu, quantizer=quantizer),
        "gradient-change": lambda: rivals.GradientChange(bits=menu, quantizer=quantizer),
    }
    if method not in known:
        raise ArgumentError(f"[--method] expected one of {', '.join(known)}, got {method!r}")
    chosen = known[method]()
    loaded = load_system(system)
    table = scoring.score(
        loaded,
        horizon=horizon,
        method=chosen,
        initial=options.parse_initial(initial, count, loaded),
        engine=engine,
        layers=layers,
        row_blocks=row_blocks,
        seed=seed,
        memory_limit=None if memory_limit is None else options.parse_size(memory_limit),
        checkpoint=checkpoint,
        progress=True,
    )
    if out is not None:
        table.save(out)
    if json:
        print_json(table.to_json())
        return
    print_table(table.table(), f"{system}: damage of rounding one layer at a time")
    for name, reason in table.provenance["engine"]["serial"].items():
        print_line(f"serial path: {name} ({reason})")
    if out is not None:
        print_line(f"written to {out}")
