"""Question: does `growth_rates` find the exponents that are known, and what does a step cost in either engine?

known   maps and flows with exponents from the literature, at length; the sum of all exponents against the mean
        log |det J| of the same Runge-Kutta map along the same trajectory, by NumPy
signs   twenty flows of the dysts collection (Gilpin, NeurIPS 2021) by the signs of their exponents. Needs its files:
        pip install --no-deps dysts (what else it depends on is not used)
speed   microseconds per step and sample, native against torch, paired; the rates must agree before they are timed

python bench/bench_growth.py
python bench/bench_growth.py --parts known signs --quick --out quick.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
import tqs_fast as tqs
from tqs_fast.reference import growth as oracle
from tqs_fast.systems import flows, lorenz63

PARTS = ("known", "signs", "speed")
Vector = np.ndarray[Any, np.dtype[np.float64]]

# ---------------------------------------------------------------- known exponents

# Name -> system, time per step, initial conditions, spin-up, steps, exponents and where they are from.
# Sprott: Chaos and Time-Series Analysis, 2003. Viswanath: PhD thesis, Cornell, 1998.
KNOWN: dict[str, tuple[Callable[[], tqs.System], float, int, int, int, list[float], str]] = {
    "logistic": (flows.logistic, 1, 64, 64, 100_000, [math.log(2)], "exact"),
    "henon": (flows.henon, 1, 64, 64, 200_000, [0.41922, math.log(0.3) - 0.41922], "Sprott; sum exact"),
    "lorenz-63": (
        lambda: flows.lorenz63(0.01), 0.01, 64, 10_000, 500_000, [0.90563, 0, -41 / 3 - 0.90563], "Viswanath",
    ),
    "rossler": (lambda: flows.rossler(0.025), 0.025, 64, 10_000, 400_000, [0.0714, 0, -5.3943], "Sprott"),
}  # fmt: skip
DIGITS = {"henon": 5e-6, "lorenz-63": 5e-6, "rossler": 5e-5}  # half a unit in the last digit that is given


def known(name: str, quick: bool) -> dict[str, Any]:
    make, unit, count, spin_up, steps, expected, source = KNOWN[name]
    steps = steps // 50 if quick else steps
    start = time.perf_counter()
    rates = tqs.growth_rates(
        make(), count=len(expected), horizon=steps, transient=max(2000, steps // 20),
        initial=tqs.Attractor(count=count, spin_up=spin_up),
    )  # fmt: skip
    values, errors = rates.exponents / unit, rates.stderr / unit
    allowed = np.hypot(errors, DIGITS.get(name, 0.0))
    return {
        "system": name, "source": source, "initial_conditions": count, "steps": steps,
        "engine": rates.provenance["engine"]["name"],
        "expected": expected, "exponents": values.tolist(), "stderr": errors.tolist(),
        "deviation_in_errors": ((values - expected) / allowed).tolist(), "outcome": rates.outcome.value,
        "interval": rates.diagnostics["interval"], "condition": max(rates.diagnostics["condition"]),
        "kaplan_yorke": rates.kaplan_yorke, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def lorenz_slope(s: Vector) -> Vector:
    sigma, rho, beta = lorenz63.SIGMA, lorenz63.RHO, lorenz63.BETA
    return np.array([sigma * (s[1] - s[0]), s[0] * (rho - s[2]) - s[1], s[0] * s[1] - beta * s[2]])


def lorenz_derivative(s: Vector) -> Vector:
    return np.array(
        [[-lorenz63.SIGMA, lorenz63.SIGMA, 0], [lorenz63.RHO - s[2], -1, -s[0]], [s[1], s[0], -lorenz63.BETA]]
    )


def rossler_slope(s: Vector) -> Vector:
    return np.array([-s[1] - s[2], s[0] + 0.2 * s[1], 0.2 + s[2] * (s[0] - 5.7)])


def rossler_derivative(s: Vector) -> Vector:
    return np.array([[0, -1, -1], [1, 0.2, 0], [s[2], 0, s[0] - 5.7]])


def sum_rule(name: str) -> dict[str, Any]:
    """Σ λ_i of 1000 steps against NumPy's mean log |det J| over the states of the same 1000 steps."""
    system, unit = KNOWN[name][0](), KNOWN[name][1]
    steps = 1000
    drawn = tqs.systems.draw(tqs.Attractor(count=4, spin_up=10_000), system, horizon=1)
    rates = tqs.growth_rates(system, count=3, horizon=steps, transient=0, initial=tqs.Contexts(drawn.state))
    path = tqs.rollout(system, drawn.state, horizon=steps).outputs.numpy()
    slope, derivative = {
        "lorenz-63": (lorenz_slope, lorenz_derivative), "rossler": (rossler_slope, rossler_derivative)
    }[name]  # fmt: skip
    worst = 0.0
    for n in range(4):
        visited = np.concatenate([drawn.state[n : n + 1].numpy(), path[:-1, n]])
        volume = oracle.log_volume(lambda s: oracle.runge_kutta_jacobian(slope, derivative, s, unit), visited)
        worst = max(worst, abs(rates.samples[n].sum() / volume - 1))
    return {"system": name, "steps": steps, "relative_error_of_sum": float(worst)}


# ---------------------------------------------------------------- dysts by sign

# Signs of the spectrum: of an autonomous chaotic flow one exponent is zero; hyperchaotic ones have two positive.
# PanXuZhou is left out: with the parameters of dysts most of its trajectories come to rest, its chaos is a transient.
SIGNS = {
    **dict.fromkeys(
        (
            "Arneodo", "BurkeShaw", "Chen", "ChenLee", "Coullet", "Dadras", "Finance", "GenesioTesi", "Hadley",
            "Halvorsen", "Lorenz", "RabinovichFabrikant", "Rossler", "Rucklidge", "ShimizuMorioka",
            "SprottB", "SprottC", "SprottS",
        ),
        (1, 0, -1),
    ),
    "HyperLorenz": (1, 1, 0, -1),
    "HyperLu": (1, 1, 0, -1),
}  # fmt: skip
PER_PERIOD = 400  # Runge-Kutta steps in a typical period as dysts gives it


class Field(torch.nn.Module):
    """A right-hand side of dysts, `[N, D]` -> `[N, D]`; its arithmetic is torch's as soon as its arguments are."""

    def __init__(self, slope: Callable[..., Any], constants: dict[str, float]) -> None:
        super().__init__()
        self.slope = slope
        self.names = list(constants)
        self.register_buffer("values", torch.tensor(list(constants.values()), dtype=torch.float64))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        constants = dict(zip(self.names, self.values.unbind(), strict=True))
        return torch.stack(self.slope(*state.unbind(-1), 0.0, **constants), dim=-1)


def dysts() -> tuple[types.ModuleType, dict[str, dict[str, Any]]] | None:
    """Its flows and table; None where it is not installed. Its own imports are replaced by empty classes."""
    spec = importlib.util.find_spec("dysts")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    base = types.ModuleType("dysts_flows.base")
    base.DynSys, base.DynSysDelay, base.staticjit = type("DynSys", (), {}), type("DynSysDelay", (), {}), staticmethod  # type: ignore[attr-defined]
    package = types.ModuleType("dysts_flows")
    package.__path__ = [str(folder)]
    sys.modules |= {"dysts_flows": package, "dysts_flows.base": base}
    found = importlib.util.spec_from_file_location("dysts_flows.flows", folder / "flows.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module, json.loads((folder / "data" / "chaotic_attractors.json").read_text())


def signs(name: str, module: types.ModuleType, entry: dict[str, Any], quick: bool) -> dict[str, Any]:
    expected = SIGNS[name]
    unit = entry["period"] / PER_PERIOD
    begin = torch.tensor(entry["initial_conditions"], dtype=torch.float64)
    field = Field(getattr(module, name)._rhs, entry["parameters"])

    def near(count: int, generator: torch.Generator) -> torch.Tensor:
        return begin * (1 + 1e-3 * torch.randn(count, len(begin), generator=generator, dtype=torch.float64))

    system = flows.map_system(flows.RungeKutta4(field, step=unit), near, name=name)
    periods = 30 if quick else 500
    start = time.perf_counter()
    rates = tqs.growth_rates(
        system, count=len(expected), horizon=periods * PER_PERIOD, transient=periods // 5 * PER_PERIOD,
        initial=tqs.Attractor(count=16, spin_up=100 * PER_PERIOD),
    )  # fmt: skip
    values, errors = rates.exponents / unit, rates.stderr / unit
    # zero: within three errors, or a hundredth of the largest (the frame aligns with the flow only as fast as it may)
    zero = np.abs(values) <= np.maximum(3 * errors, 0.01 * values[0])
    return {
        "system": name, "expected": list(expected), "signs": np.where(zero, 0, np.sign(values)).astype(int).tolist(),
        "exponents": values.tolist(), "stderr": errors.tolist(), "dysts": entry["lyapunov_spectrum_estimated"],
        "outcome": rates.outcome.value, "steps": rates.horizon, "interval": rates.diagnostics["interval"],
        "engine": rates.provenance["engine"]["name"], "seconds": time.perf_counter() - start,
    }  # fmt: skip


# ---------------------------------------------------------------- speed

# Name -> system, directions, initial conditions; steps in each engine, so that both take a few seconds.
SPEED: dict[str, tuple[Callable[[], tqs.System], int, int, dict[str, int]]] = {
    "lorenz-63": (flows.lorenz63, 3, 64, {"native": 20_000, "torch": 200}),
    "lorenz-gru": (lambda: tqs.load_system("lorenz-gru"), 8, 64, {"native": 1000, "torch": 100}),
}


def speed(name: str, rounds: int) -> dict[str, Any]:
    make, directions, count, steps = SPEED[name]
    system = make()
    drawn = tqs.systems.draw(tqs.Attractor(count=count, spin_up=1000), system, horizon=1)

    def run(engine: str, length: int) -> tqs.GrowthRates:
        start = tqs.Contexts(drawn.state)
        return tqs.growth_rates(
            system, count=directions, horizon=length, transient=0, interval=4, initial=start, engine=engine
        )

    pair = [run(engine, 40).samples for engine in ("native", "torch")]
    agreement = float(np.abs(pair[0] - pair[1]).max())
    if agreement > 1e-9:
        return {"system": name, "wrong": agreement}
    # A call captures the step or finds its forward mode first: what a step costs is the difference of two lengths.
    seconds: dict[str, list[float]] = {engine: [] for engine in steps}
    for _ in range(rounds):
        for engine, length in steps.items():
            taken = []
            for part in (length // 10, length + length // 10):
                start = time.perf_counter()
                run(engine, part)
                taken.append(time.perf_counter() - start)
            seconds[engine].append((taken[1] - taken[0]) / length / count)
    return {
        "system": name, "directions": directions, "initial_conditions": count, "agreement": agreement,
        "microseconds_per_step_and_sample": {e: 1e6 * statistics.median(values) for e, values in seconds.items()},
        "torch / native": harness.ratio(seconds, "torch", "native"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps, one round")
    parser.add_argument("--out", default="growth", help="name of the result file, or a path that ends in .json")
    options = parser.parse_args()
    document: dict[str, Any] = {}
    if "known" in options.parts:
        document["known"] = []
        for name in KNOWN:
            document["known"].append(known(name, options.quick))
            row = document["known"][-1]
            pairs = zip(row["exponents"], row["stderr"], row["deviation_in_errors"], strict=True)
            shown = "  ".join(f"{value:.5f} ± {error:.1g} ({off:+.1f})" for value, error, off in pairs)
            print(f"{name:12} {shown}  {row['outcome']}, {row['seconds']:.0f} s", flush=True)
        document["sum_rule"] = [sum_rule(name) for name in ("lorenz-63", "rossler")]
        for row in document["sum_rule"]:
            print(f"{row['system']:12} sum of exponents off by {row['relative_error_of_sum']:.1e} of it", flush=True)
    if "signs" in options.parts:
        collection = dysts()
        if collection is None:
            print("signs: skipped, dysts is not installed (pip install --no-deps dysts)")
        else:
            module, table = collection
            document["signs"] = []
            for name in SIGNS:
                document["signs"].append(signs(name, module, table[name], options.quick))
                row = document["signs"][-1]
                verdict = "as known" if row["signs"] == row["expected"] else f"EXPECTED {row['expected']}"
                values = " ".join(f"{value:.4f}" for value in row["exponents"])
                tail = f"{values}  {row['outcome']}, {row['seconds']:.0f} s"
                print(f"{name:20} {row['signs']} {verdict}  {tail}", flush=True)
    if "speed" in options.parts:
        document["speed"] = [speed(name, 1 if options.quick else options.rounds) for name in SPEED]
        for row in document["speed"]:
            print(json.dumps(row))
    print("written to", harness.write(options.out, document))


if __name__ == "__main__":
    main()
