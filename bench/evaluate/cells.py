"""Cells: one system at one horizon, size and seed, all methods judged together; one JSON file each.

A cell's file is written when it is finished, whole or not at all; a run that was killed goes on where it was, and a
method that was added since is the only one that is computed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import harness
import tqs_fast as tqs
from evaluate.judging import Rolls, judge
from evaluate.methods import BASE, METHODS, Fixed, Method, Scored, Searched, scored, searched
from evaluate.subject import HORIZONS, Judge, Subject

RULES = 2  # of judging: cells of other rules are not mixed with these
AVERAGE_BITS = (2.5, 3.0, 4.0, 5.0)
SEEDS = (10, 11, 12)  # 0, 1 and 2 were looked at while the search was made
JUDGE_SEED = 1000  # plus the cell's; scoring takes the cell's own


@dataclass(frozen=True)
class Cell:
    """What is compared.

    Attributes:
        average_bits: names the size; see `size`.
    """

    system: str
    horizon: int
    average_bits: float
    seed: int

    @property
    def path(self) -> str:
        """Of its file, below the folder of results."""
        return f"cells/{self.system}/{self.horizon}-{self.average_bits:g}-{self.seed}.json"


def size(table: tqs.Sensitivity, average_bits: float) -> int:
    """Bytes of the uniform plan at `average_bits`; between two bit-widths of the menu, as far between their bytes."""
    sizes = {bits: sum(table.quantizer.bytes(layer.shape, bits) for layer in table.layers) for bits in table.bits}
    low = max(bits for bits in table.bits if bits <= average_bits)
    high = min(bits for bits in table.bits if bits >= average_bits)
    share = (average_bits - low) / (high - low) if high > low else 0.0
    return int(sizes[low] + share * (sizes[high] - sizes[low]))


class Setting:
    """One system at one horizon and seed: its tables and its judges, which all sizes share.

    Args:
        folder: of results; tables are kept there too.
    """

    def __init__(self, subject: Subject, horizon: int, seed: int, folder: Path, methods: Sequence[Method]) -> None:
        self.subject, self.horizon, self.seed = subject, horizon, seed
        self._folder = folder / "tables" / subject.name
        self._methods = {method.name: method for method in (*METHODS, *methods)}
        self._tables: dict[str, tuple[tqs.Sensitivity, dict[str, float]]] = {}

    @cached_property
    def judges(self) -> list[tuple[Judge, Rolls]]:
        """Every judge with its float rollout."""
        seed = JUDGE_SEED + self.seed
        quantizer = self.table(BASE).quantizer
        return [
            (
                judged,
                Rolls(self.subject.system, judged.initial, horizon=self.horizon, seed=seed, quantizer=quantizer),
            )
            for judged in self.subject.judges(seed, self.horizon)
        ]

    @cached_property
    def _scoring_rolls(self) -> Rolls:
        return Rolls(
            self.subject.system,
            list(self.subject.scored_on),
            horizon=self.horizon,
            seed=self.seed,
            quantizer=tqs.Quantizer(),
        )

    def table(self, name: str) -> tqs.Sensitivity:
        """The table of the method called `name`."""
        return self._scored(name)[0]

    def cost(self, name: str) -> dict[str, float]:
        """Processor seconds that its table took, and those of one forward rollout of the same initial conditions just
        before. On one thread they are wall time on a machine that does nothing else; this one need not be.
        """
        return self._scored(name)[1]

    def _scored(self, name: str) -> tuple[tqs.Sensitivity, dict[str, float]]:
        if name not in self._tables:
            method = self._methods[name]
            assert isinstance(method, Scored)
            path = self._folder / f"{self.horizon}-{self.seed}-{name}.json"
            costs = path.with_suffix(".cost.json")
            if path.exists() and costs.exists():
                self._tables[name] = tqs.Sensitivity.load(path), json.loads(costs.read_text())
            else:
                self._tables[name] = self._score(method, path, costs)
        return self._tables[name]

    def _score(self, method: Scored, path: Path, costs: Path) -> tuple[tqs.Sensitivity, dict[str, float]]:
        rolls = self._scoring_rolls  # captured once, before anything is timed
        forward = min(_seconds(rolls.forward) for _ in range(3))
        begin = time.process_time()
        table = scored(method, self.subject, horizon=self.horizon, seed=self.seed)
        cost = {"seconds": time.process_time() - begin, "forward_seconds": forward}
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
        write_whole(costs, cost)
        return table, cost


def run_cell(setting: Setting, cell: Cell, methods: Sequence[Method], folder: Path) -> dict[str, Any]:
    """Compute what the cell's file lacks, write it, and return its content.

    Raises:
        ValueError: the file is of other weights or other rules.
    """
    path = folder / cell.path
    identity = {"rules": RULES, "weights": weights_digest(setting.subject.system)}
    document = json.loads(path.read_text()) if path.exists() else None
    if document is not None and document["identity"] != identity:
        raise ValueError(f"[run_cell] {path} is of other weights or rules; choose another folder")
    known = {} if document is None else document["methods"]
    missing = [method for method in methods if method.name not in known or stale(method, known[method.name], methods)]
    if document is not None and not missing:
        return document
    budget = size(setting.table(BASE), cell.average_bits)
    plans: dict[str, tqs.Plan] = {}
    added = dict(known)
    for method in missing:
        begin = time.process_time()
        plan, extra = make_plan(setting, method, budget, against(method, methods), added)
        plans[method.name] = plan
        added[method.name] = {
            "bits": plan.bits,
            "bytes": plan.bytes,
            "predicted": None if math.isnan(plan.predicted_damage) else encoded(plan.predicted_damage),
            **extra,
            "plan_seconds": time.process_time() - begin,
        }
    judged = {} if document is None else document["judges"]
    for found, rolls in setting.judges:
        figures = judge(rolls, found, {name: plan.bits for name, plan in plans.items()})
        judged[found.name] = merged(judged.get(found.name), figures)
    document = {
        "identity": identity,
        "machine": harness.STARTED,
        "cell": vars(cell),
        "budget_bytes": budget,
        "lyapunov": setting.subject.lyapunov if setting.subject.lyapunov > 0 else None,
        "engine": setting.judges[0][1].engine,
        "layers": len(setting.table(BASE).layers),
        "parameters": sum(layer.parameters for layer in setting.table(BASE).layers),
        "methods": {name: added[name] for name in sorted(added, key=order(methods))},
        "judges": judged,
    }
    write_whole(path, document)
    return document


def make_plan(
    setting: Setting, method: Method, budget: int, rivals: Sequence[str], known: Mapping[str, Mapping[str, Any]]
) -> tuple[tqs.Plan, dict[str, Any]]:
    """The plan of one method within `budget` bytes, and what it cost beside that.

    Args:
        rivals: methods whose plans a search competes with.
        known: their entries, made already.
    """
    if isinstance(method, Fixed):
        return method.choose(setting.table(BASE), budget), {}
    if isinstance(method, Scored):
        return tqs.allocate(setting.table(method.name), bytes=budget), {"score": setting.cost(method.name)}
    table = setting.table(method.start)
    plan = tqs.allocate(table, bytes=budget)
    plans = {name: tqs.Plan(dict(known[name]["bits"]), table.layers, table.quantizer) for name in rivals}
    begin = time.process_time()
    result = searched(method, setting.subject, table, plan, plans, seed=setting.seed)
    cost = {
        "seconds": time.process_time() - begin,
        "table_seconds": setting.cost(method.start)["seconds"],
        "against": list(rivals),
        "evaluations": result.evaluations,
        "chosen": result.chosen,
        "stopped": result.stopped,
        "damage": result.damage,
        "start_damage": result.candidate("start").error.damage,
    }
    return result.plan, {"search": {key: encoded(value) for key, value in cost.items()}}


def against(method: Method, methods: Sequence[Method]) -> list[str]:
    """Methods before a search in the table; `tqs.search` brings its start and uniform plans itself."""
    if not isinstance(method, Searched):
        return []
    return [other.name for other in methods[: methods.index(method)] if other.name not in (method.start, "uniform")]


def stale(method: Method, entry: Mapping[str, Any], methods: Sequence[Method]) -> bool:
    """Whether a search was made when fewer, or other, methods were in the table."""
    return isinstance(method, Searched) and entry["search"]["against"] != against(method, methods)


def encoded(value: Any) -> Any:
    """Infinity as "inf", which JSON can hold."""
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def order(methods: Sequence[Method]) -> Callable[[str], int]:
    """Place of a name in the table of methods; names that are not in it come last, as they were."""
    places = {method.name: place for place, method in enumerate(methods)}
    return lambda name: places.get(name, len(places))


def merged(known: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Figures of more methods of one judge."""
    if known is None:
        return new
    return {key: known[key] | value if isinstance(value, dict) else value for key, value in new.items()}


def run(
    load: Callable[[str], Subject],
    folder: Path,
    *,
    systems: Sequence[str],
    horizons: Sequence[int] = HORIZONS,
    average_bits: Sequence[float] = AVERAGE_BITS,
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[Method] = METHODS,
    report: Callable[[Cell, dict[str, Any], float], None] = lambda cell, document, seconds: None,
) -> None:
    """Every cell, seed by seed so that a run that is stopped early has all systems of the first seeds."""
    for seed in seeds:
        for name in systems:
            subject = load(name)
            for horizon in horizons:
                setting = Setting(subject, horizon, seed, folder, methods)
                for bits in average_bits:
                    cell = Cell(name, horizon, bits, seed)
                    begin = time.perf_counter()
                    document = run_cell(setting, cell, methods, folder)
                    report(cell, document, time.perf_counter() - begin)


def weights_digest(system: tqs.System) -> str:
    """SHA-256 of the float weights."""
    digest = hashlib.sha256()
    for name, tensor in system.module.state_dict().items():
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_whole(path: Path, document: Any) -> None:
    """JSON, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(document) + "\n")
    partial.replace(path)


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin
