"""How long a case takes at least, and what share of that speed a contestant reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qgemm.peaks import Peaks, measured_peaks


@dataclass
class Machine:
    """What was measured so far: rates of everything in `peaks`, in operations or bytes per second."""

    peaks: Peaks
    rates: dict[str, list[float]]

    def sample(self) -> None:
        for kind, peak in self.peaks.items():
            if peak:
                self.rates[kind].append(peak.measure())

    def best(self, kind: str) -> float | None:
        return max(self.rates[kind], default=None)

    def operations(self, activations: str) -> float | None:
        """Where bfloat16 has no instructions of its own it is widened."""
        return self.best(activations) or (self.best("float32") if activations == "bfloat16" else None)


def start_machine(threads: int) -> Machine:
    machine = Machine(measured_peaks(threads), {kind: [] for kind in ("float32", "bfloat16", "int8", "bytes")})
    for _ in range(7):
        machine.sample()
    return machine


def limit_of(machine: Machine, case: dict[str, Any], activations: str) -> dict[str, Any] | None:
    """Seconds below which the case cannot be done, and what sets them; None where that was not measured."""
    rate, bandwidth = machine.operations(activations), machine.best("bytes")
    times = {}
    if rate:
        times["operations"] = 2 * case["M"] * case["N"] * case["K"] / rate
    if case["state"] == "cold" and bandwidth:
        times["bytes"] = case["weight_bytes"] / bandwidth
    if not times:
        return None
    slowest = max(times, key=lambda kind: times[kind])
    return {"seconds": times[slowest], "by": slowest}


def with_limits(case: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """The case with its limits by type of activations, and the share of the limit that every contestant reaches."""
    limits = {kind: limit_of(machine, case, kind) for kind in ("int8", "float32", "bfloat16")}
    contestants = {}
    for name, row in case["contestants"].items():
        least = limits[row["activations"]]
        reached = least and "median_seconds" in row and {"share": least["seconds"] / row["median_seconds"]}
        contestants[name] = row | (reached or {})
    return case | {"limits": limits, "contestants": contestants}
