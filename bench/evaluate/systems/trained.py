"""Checkpoints of the trained forecasters: made once, checked, kept in a cache folder."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import tqs_fast as tqs
from evaluate import statistics
from evaluate.subject import Array, Judge, Subject, naive_error
from evaluate.systems.flows import FLOWS
from evaluate.systems.recordings import RECORDINGS, windows
from evaluate.systems.rows import ROWS, Row
from evaluate.systems.training import train
from tqs_fast.systems import draw

SCORED, JUDGED = 64, 64  # initial conditions
SPIN_UP = 256  # values: random windows can be far off, and come back slowly
TRAINING_SEED = 1  # of the trajectories; judges take 1000 and up
SERIES, SAMPLES = 64, 1000  # trajectories and their length
CHECKED_VALUES = 200
CHECK_SEED = 500


def default_cache() -> Path:
    """Where checkpoints are kept unless the caller says."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tqs-fast" / "evaluate"


def subject(name: str, cache: Path) -> Subject:
    """A trained system; trained now where the cache does not have it.

    Raises:
        ArithmeticError: its free rollouts do not stay on the attractor (see `check`).
    """
    row = ROWS[name]
    module = row.recipe.build()
    path = cache / f"{name}.safetensors"
    if not path.exists():
        make(row, path)
    module.load_state_dict(load_file(path))
    flow = FLOWS.get(row.data)
    return Subject(
        row.recipe.form.system(module.eval(), name),
        (tqs.Attractor(SCORED, SPIN_UP),),
        partial(judges, row, module),
        float("nan") if flow is None else flow.lyapunov * flow.step,
    )


def make(row: Row, path: Path) -> dict[str, Any]:
    """Train, check and write `path`, and what it cost beside it as JSON."""
    data = (
        FLOWS[row.data].trajectories(SERIES, SAMPLES, seed=TRAINING_SEED)
        if row.data in FLOWS
        else RECORDINGS[row.data].part(judged=False)
    )
    module, cost = train(row.recipe, data)
    report = cost | check(row, module)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    save_file(module.state_dict(), partial_path)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    partial_path.replace(path)
    return report


def judges(row: Row, module: torch.nn.Module, seed: int, horizon: int) -> list[Judge]:
    """The network's own attractor, and true states with what followed."""
    form = row.recipe.form
    truth, season = true_pieces(row, form.context + horizon, seed)
    contexts = truth[:, : form.context]
    state = form.start(module, torch.from_numpy(contexts).float())
    return [
        Judge("attractor", tqs.Attractor(JUDGED, SPIN_UP)),
        Judge(
            "truth",
            tqs.Contexts(state, name="truth"),
            truth[:, form.context :],
            naive_error(contexts, season),
        ),
    ]


def true_pieces(row: Row, length: int, seed: int) -> tuple[Array, int]:
    """`[N, length, C]` that training has not seen, and its season."""
    if row.data in FLOWS:
        return FLOWS[row.data].trajectories(JUDGED, length, seed=seed), 1
    recording = RECORDINGS[row.data]
    return windows(recording.part(judged=True), length, JUDGED, seed=seed), recording.season


def check(row: Row, module: torch.nn.Module) -> dict[str, Any]:
    """Free rollouts of 200 values: they stay finite, their spread is within 20 % of the data's, and those of a chaotic
    flow are valid for at least one Lyapunov time in the median.

    Raises:
        ArithmeticError: they are not.
    """
    form, flow = row.recipe.form, FLOWS.get(row.data)
    system = form.system(module, row.name)
    length = CHECKED_VALUES if flow else 96
    truth, _ = true_pieces(row, form.context + length, CHECK_SEED)
    start = form.start(module, torch.from_numpy(truth[:, : form.context]).float())
    after = truth[:, form.context :].transpose(1, 0, 2)
    forecast = tqs.rollout(system, start, horizon=length)
    free = draw(tqs.Attractor(SCORED, SPIN_UP), system, horizon=1, seed=CHECK_SEED)
    path = tqs.rollout(system, free.state, horizon=CHECKED_VALUES)
    spread = path.outputs.double().numpy().std(axis=(0, 1)) / after.std(axis=(0, 1))
    valid = float(np.median(statistics.valid_values(forecast.outputs.double().numpy()[None], after)))
    report = {
        "engine": path.provenance["engine"],
        "spread": spread.tolist(),
        "valid_values": valid,
        "valid_lyapunov_times": valid * flow.step * flow.lyapunov if flow else None,
        "largest": float(path.outputs.abs().max()),
    }
    good = bool((np.abs(spread - 1) <= 0.2).all()) and report["engine"] == "native"
    if not good or (flow and report["valid_lyapunov_times"] < 1):
        raise ArithmeticError(f"[check] {row.name} does not stay on its attractor: {report}; train it longer")
    return report
