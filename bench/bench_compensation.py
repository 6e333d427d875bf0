"""Question: what do compensating quantizers cost on one layer, what do they gain, and where does the order matter?

    python bench/bench_compensation.py
    python bench/bench_compensation.py --columns 256 512 --rounds 3

Square layers at 3 bits with groups of 128, one thread, process time. `obq` rounds all rows of up to `--whole` columns;
beyond that so many rows as fit a budget, and its time is extrapolated (`obq_extrapolated`), which is exact up to the
noise of timing: its rows do not know of each other. Output errors are of the rows that obq rounded, for all methods.

Inputs: "decaying" is a mixture of directions of very unequal strength, as hidden states are; "unequal" has independent
columns of very unequal size; "alike" has independent columns of equal size, where no order can matter.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch

import harness
import tqs_fast as tqs
from tqs_fast import kernels
from tqs_fast.compensation import compensate, output_error

BITS, QUANTIZER = 3, tqs.Quantizer(128)
SHARED = {
    "gptq, stored order": tqs.Compensation("gptq", act_order=False),
    "gptq": tqs.Compensation("gptq"),
    "sensitivity": tqs.Compensation("sensitivity"),
    "gptq, 2 sweeps": tqs.Compensation("gptq", sweeps=2),
    "sensitivity, 2 sweeps": tqs.Compensation("sensitivity", sweeps=2),
    "sensitivity, 8 sweeps": tqs.Compensation("sensitivity", sweeps=8),
}
OBQ = tqs.Compensation("obq")
BUDGET = 15.0  # seconds of obq where not all of its rows are rounded


def inputs(kind: str, columns: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The Hessian [K, K] of 4 K inputs."""
    generator = np.random.default_rng(columns)
    x = generator.standard_normal((4 * columns, columns))
    if kind == "decaying":
        x = x * np.exp(-4 * np.arange(columns) / columns) @ generator.standard_normal((columns, columns))
    if kind == "unequal":
        x *= np.exp(generator.standard_normal(columns))
    return x.T @ x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--whole", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", default=["decaying", "unequal", "alike"])
    parser.add_argument("--out", default="compensation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = []
    for columns in options.columns:
        for kind in options.kinds:
            if kind != "decaying" and columns > options.whole:
                continue  # what order does is seen on the smaller ones
            cells.append(measure(kind, columns, options))
            print(line(cells[-1]), flush=True)
    print("written to", harness.write(options.out, {"bits": BITS, "group_size": QUANTIZER.group_size, "cells": cells}))


def measure(kind: str, columns: int, options: argparse.Namespace) -> dict[str, Any]:
    """Times and errors of one layer."""
    hessian = inputs(kind, columns)
    weight = np.random.default_rng(1).standard_normal((columns, columns)).astype(np.float32)
    run = partial(compensate, hessian=hessian, quantizer=QUANTIZER, threads=1)
    count = columns if columns <= options.whole else affordable(weight, run)
    rounds = options.rounds if columns <= 1024 else max(3, options.rounds // 2)
    seconds = harness.paired(
        {name: partial(run, [(weight, BITS)], settings=settings) for name, settings in SHARED.items()},
        rounds=rounds,
        clock=time.process_time,
    )
    begin = time.process_time()
    greedy = run([(weight[:count], BITS)], settings=OBQ)[0]
    obq = (time.process_time() - begin) * columns / count
    errors = {name: run([(weight, BITS)], settings=settings)[0] for name, settings in SHARED.items()} | {
        "rtn": kernels.pack(weight[:count], bits=BITS, group_size=QUANTIZER.group_size),
        "obq": greedy,
    }
    return {
        "kind": kind,
        "columns": columns,
        "seconds": {name: float(np.median(found)) for name, found in seconds.items()} | {"obq": obq},
        "obq_rows": count,
        "obq_extrapolated": count < columns,
        "obq_over_sensitivity": obq / float(np.median(seconds["sensitivity"])),
        "sensitivity_over_gptq": harness.ratio(seconds, "sensitivity", "gptq"),
        "output_error": {
            name: output_error(weight[:count], packed.dequantize()[:count], hessian) for name, packed in errors.items()
        },
    }


def affordable(weight: np.ndarray[Any, np.dtype[np.float32]], run: Any) -> int:
    """Rows that obq rounds within the budget, of what two take beyond the inverse that all share."""
    times = []
    for rows in (1, 3):
        begin = time.process_time()
        run([(weight[:rows], BITS)], settings=OBQ)
        times.append(time.process_time() - begin)
    return int(np.clip(BUDGET / max(times[1] - times[0], 1e-3) * 2, 4, len(weight)))


def line(cell: dict[str, Any]) -> str:
    seconds, error = cell["seconds"], cell["output_error"]
    best = min(error["obq"], error["gptq"])
    ratio = cell["sensitivity_over_gptq"]
    return (
        f"{cell['kind']:9} {cell['columns']:5}: "
        + ", ".join(f"{name} {seconds[name]:.3g} s" for name in seconds)
        + f"{' (extrapolated)' if cell['obq_extrapolated'] else ''}; "
        f"obq / sensitivity {cell['obq_over_sensitivity']:.0f}, "
        f"sensitivity / gptq {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}); error "
        + ", ".join(f"{name} {value:.3g}" for name, value in error.items())
        + "; over the better of obq and gptq: "
        + ", ".join(f"{name} {error[name] / best:.3f}" for name in SHARED if name.startswith("sensitivity"))
    )


if __name__ == "__main__":
    main()
