"""Evidence made by rule for report pages: tables with curves, searches and evaluations, hostile names, divergence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

import tqs_fast as tqs
from tqs_fast.scoring.growth import growth_rate
from tqs_fast.search.result import Candidate, Evaluation

BITS = (2, 3, 4, 8)
HOSTILE = ('<script>alert("x")</script>', 'a & b\'s "weight"', "]]></style><b>", "\x00\ud800 café 层")


def table(count=12, *, horizon=24, seed=0, names=None, diverged=(), zero=(), families=("attractor", "synthetic")):
    """Damages that fall with the bits and grow along the rollout; `diverged` and `zero` are (layer, column)."""
    rng = np.random.default_rng(seed)
    N = 6
    size = np.exp(1.5 * rng.normal(size=(count, 1))) * np.array([1e-1, 2e-2, 5e-3, 2e-5])
    rise = np.exp(np.linspace(-3, 1, horizon)) * np.exp(0.1 * rng.normal(size=(count, 4, horizon)))
    curve = size[..., None] * rise
    samples = curve.mean(axis=2)[..., None] * np.exp(0.3 * rng.normal(size=(count, 4, N)))
    for layer, column in diverged:
        samples[layer, column, 0] = math.inf
        curve[layer, column, horizon // 2 :] = math.inf
        curve[layer, column, -1] = math.nan
    for layer, column in zero:
        samples[layer, column], curve[layer, column] = 0, 0
    names = names or [f"blocks.{i // 4}.{('query', 'key', 'value', 'out')[i % 4]}.weight" for i in range(count)]
    rates = [growth_rate(curve[i, 1]) for i in range(count)]
    return tqs.Sensitivity(
        layers=tuple(tqs.Layer(name, "Linear", (16, 64), 1024) for name in names),
        bits=BITS,
        quantizer=tqs.Quantizer(group_size=32),
        samples=samples,
        families=families,
        family_of=np.arange(N) % len(families),
        curve=curve,
        relative_error=np.ones((count, 4)),
        gain=np.ones(count),
        growth_rate=np.array([rate for rate, _ in rates]),
        growth_window=np.array([window for _, window in rates]),
        provenance={"system": "made", "horizon": horizon, "method": {"name": "Residual", "meaning": "damage, made up"}},
    )


def error(damage, *, count=8, seed=0, families=("attractor", "synthetic")):
    """Measured errors around `damage`, the same initial conditions for every seed."""
    rng = np.random.default_rng(seed)
    samples = damage * np.exp(0.2 * rng.normal(size=count))
    curve = np.full(16, damage)
    about = {"system": "made", "horizon": 16, "initial": "deciding", "seed": 5}
    return tqs.RolloutError(samples, families, np.arange(count) % len(families), curve, math.nan, (0, 0), about)


def uniform(scored, bits):
    """Every layer at one bit-width."""
    return tqs.Plan({layer.name: bits for layer in scored.layers}, scored.layers, scored.quantizer)


def search(scored, start, *, diverged=False):
    """Three candidates: the start, uniform 4 and a plan found, which is kept."""
    found = tqs.allocate(scored, bytes=start.bytes - 64)
    plans = {"start": start, "uniform 4": uniform(scored, 4), "searched 1": found}
    damages = {"start": 0.02, "uniform 4": math.inf if diverged else 0.05, "searched 1": 0.012}
    candidates = tuple(
        Candidate(name, plan, damages[name], error(damages[name], seed=i), ("synthetic",) if i == 0 else ())
        for i, (name, plan) in enumerate(plans.items())
    )
    history = tuple(
        Evaluation(tuple(found.bits.values()), "proposed", 0.01 * (k + 1), math.inf if k == 3 else 0.012 * (k + 1))
        for k in range(8)
    )
    kept = replace(found, method="search")
    return tqs.SearchResult("searched 1", kept, candidates, history, "8 evaluations were asked for", {"seed": 0})


def full(count=12, **more):
    """A report with everything."""
    scored = table(count, **more)
    plan = tqs.allocate(scored, average_bits=4.5)
    evaluation = {"own attractor": error(0.015, seed=3), "co2": error(0.03, seed=4, families=("co2",))}
    return tqs.Report(scored, plan, search=search(scored, plan), evaluation=evaluation)
