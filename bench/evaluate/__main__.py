"""Question: which way to choose bits does least damage, on trained systems, judged where no scorer has looked?

    python bench/evaluate run                    # everything; killed and started again it goes on where it was
    python bench/evaluate run --systems lorenz-gru --seeds 0 --bits 4
    python bench/evaluate train                  # only make the checkpoints
    python bench/evaluate summary                # bench/results/evaluate.json, and its tables in markdown
    python bench/evaluate study                  # rank stability, contexts, growth, additivity, predictions
    python bench/evaluate study --only prediction --systems fracast

Needs `pip install --no-deps -r bench/evaluate/requirements.txt` beside the `test` extra. Rules are fixed in
`cells.py` (what is compared), `condense.py` (how) and `statistics.py` (the test).
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import harness
from evaluate import cells, condense, studies, subject, tables
from evaluate.methods import METHODS
from evaluate.systems import catalogue, trained
from evaluate.systems.rows import ROWS


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    # as it stood when the run began, and only once: every system is asked for at every seed
    load = lru_cache(maxsize=None)(partial(catalogue.load, cache=options.cache))
    {"run": run, "train": train, "summary": summary, "study": study}[options.command](options, load)


def run(options: argparse.Namespace, load: Any) -> None:
    methods = [method for method in METHODS if options.methods is None or method.name in options.methods]
    harness.STARTED["threads"] = options.threads
    cells.run(
        load, options.folder, systems=options.systems, horizons=options.horizons, average_bits=options.bits,
        seeds=options.seeds, methods=methods, report=show,
    )  # fmt: skip


def show(cell: cells.Cell, document: dict[str, Any], seconds: float) -> None:
    row = condense.condense_cell(document, rivals())
    ratios = {name: found["uniform"][0] for name, found in row["comparisons"].items() if name != "uniform"}
    shown = "  ".join(f"{name} {tables.value(found):.3g}" for name, found in ratios.items())
    mark = " saturated" if row["saturated"] else ""
    print(
        f"{cell.system:21} horizon {cell.horizon:3} bits {cell.average_bits:3g} seed {cell.seed}: uniform "
        f"{tables.value(row['uniform_damage']):.3g}{mark}; over uniform: {shown}  [{seconds:.1f} s]",
        flush=True,
    )


def train(options: argparse.Namespace, load: Any) -> None:
    for name in options.systems:
        if name not in ROWS:
            continue
        begin = time.perf_counter()
        path = options.cache / f"{name}.safetensors"
        if options.again or not path.exists():
            print(name, trained.make(ROWS[name], path), f"{time.perf_counter() - begin:.0f} s", flush=True)
        else:
            print(name, "is there:", path)


def summary(options: argparse.Namespace, load: Any) -> None:
    document = condense.condense(condense.read_cells(options.folder), rivals())
    document["studies"] = studies.read(options.folder)
    cells.write_whole(options.out, document)
    text = tables.markdown(document) + studies.markdown(document["studies"])
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text)


def study(options: argparse.Namespace, load: Any) -> None:
    studies.run(load, options.folder, systems=options.systems, only=options.only, seed=options.seeds[0])


def rivals() -> list[str]:
    return [method.name for method in METHODS if method.rival]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python bench/evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "train", "summary", "study"))
    parser.add_argument("--systems", nargs="+", default=list(catalogue.NAMES), choices=catalogue.NAMES)
    parser.add_argument("--horizons", nargs="+", type=int, default=list(subject.HORIZONS))
    parser.add_argument("--bits", nargs="+", type=float, default=list(cells.AVERAGE_BITS), help="average bits")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(cells.SEEDS))
    parser.add_argument("--methods", nargs="+", choices=[method.name for method in METHODS])
    parser.add_argument("--only", nargs="+", default=list(studies.STUDIES), choices=list(studies.STUDIES))
    parser.add_argument("--again", action="store_true", help="train although there is a checkpoint")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=trained.default_cache(), help="folder of checkpoints")
    parser.add_argument("--folder", type=Path, help="of cells and tables; below the cache by default")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "evaluate.json", help="of summary")
    parser.add_argument("--markdown", type=Path, help="of summary: write the tables there, not to the terminal")
    options = parser.parse_args()
    options.folder = options.folder or options.cache / "results"
    return options


if __name__ == "__main__":
    main()
