"""Proof by rollout: a changed module against the float model, from the same initial conditions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast import kernels
from tqs_fast._files import Fields, encode_array, read_json, write_json
from tqs_fast._table import format_number
from tqs_fast.engines import roll_modules, roll_reference
from tqs_fast.engines.reference import family_weights
from tqs_fast.engines.statistics import ErrorStatistics
from tqs_fast.engines.tf32 import tf32_asked
from tqs_fast.errors import ArgumentError, FileFormatError
from tqs_fast.scoring.growth import growth_rate
from tqs_fast.systems import InitialConditions, System, default_initial, draw

FORMAT = "tqs-fast/rollout-error"
VERSION = 1
RESAMPLES = 2000
CONFIDENCE = 0.95

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RolloutError:
    """Errors of a changed module over a rollout, scaled by the standard deviation of the float trajectories.

    Attributes:
        samples: `[N]`, damage per initial condition; infinite where the rollout diverged.
        families: names of the families of initial conditions.
        family_of: `[N]`.
        curve: `[T]`, mse_t.
        growth_rate: slope of ½ log mse_t (natural log, per value) before saturation; NaN where it cannot be fitted.
        growth_window: `[first, end)` of that fit.
        provenance: system, horizon, initial conditions, seed, and the engine that ran.
    """

    samples: FloatArray
    families: tuple[str, ...]
    family_of: npt.NDArray[np.int64]
    curve: FloatArray
    growth_rate: float
    growth_window: tuple[int, int]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def damage(self) -> float:
        """Mean over families of the mean over their initial conditions."""
        return float(self._mean(self.samples))

    @property
    def damage_of_family(self) -> dict[str, float]:
        """Damage of each family."""
        return {name: float(self.samples[self.family_of == f].mean()) for f, name in enumerate(self.families)}

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the damage, resampling initial conditions within families."""
        return self._interval(self._resampled(self.samples))

    def ratio(self, other: RolloutError, *, family: str | None = None) -> tuple[float, float, float]:
        """damage(self) / damage(other) with a 95 % interval that pairs initial conditions: (ratio, low, high).

        Of one family alone where it is named.

        Raises:
            ArgumentError: the two were not judged on the same initial conditions, or no family has that name.
        """
        if family is not None and family not in self.families:
            raise ArgumentError(f"[RolloutError.ratio] family must be one of {self.families}, got {family!r}")
        if len(self.samples) != len(other.samples) or self._question() != other._question():
            raise ArgumentError("[RolloutError.ratio] both must be evaluated with the same system, initial and horizon")
        with np.errstate(invalid="ignore", divide="ignore"):  # inf / inf where both diverged: not comparable, NaN
            resampled = self._resampled(self.samples, family) / self._resampled(other.samples, family)
            means = self._mean(self.samples, family), self._mean(other.samples, family)
            return float(np.divide(*means)), *self._interval(resampled)

    def _question(self) -> dict[str, Any]:
        """What was asked, whichever engine answered."""
        return {name: value for name, value in self.provenance.items() if name != "engine"}

    def _parts(self, samples: FloatArray, family: str | None) -> list[FloatArray]:
        """`samples` of each family, or of the one that is named."""
        named = range(len(self.families)) if family is None else [self.families.index(family)]
        return [samples[self.family_of == f] for f in named]

    def _mean(self, samples: FloatArray, family: str | None = None) -> FloatArray:
        return np.asarray(np.mean([part.mean() for part in self._parts(samples, family)]))

    def _resampled(self, samples: FloatArray, family: str | None = None) -> FloatArray:
        """Damages of RESAMPLES draws with replacement; the same draws for every evaluation of the same size."""
        generator = np.random.Generator(np.random.PCG64(0))
        means = []
        for part in self._parts(samples, family):
            means.append(part[generator.integers(len(part), size=(RESAMPLES, len(part)))].mean(axis=1))
        return np.asarray(np.mean(means, axis=0))

    def _interval(self, values: FloatArray) -> tuple[float, float]:
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN is None, infinity "inf"."""
        return {
            "families": list(self.families),
            "family_of": encode_array(self.family_of),
            "damage": encode_array(self.damage),
            "interval": encode_array(self.interval),
            "damage_of_family": {name: encode_array(value) for name, value in self.damage_of_family.items()},
            "growth_rate": encode_array(self.growth_rate),
            "growth_window": list(self.growth_window),
            "curve": encode_array(self.curve),
            "samples": encode_array(self.samples),
            "provenance": self.provenance,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> RolloutError:
        """The errors that `to_json` wrote. Raises FileFormatError."""
        first, end = fields.integers("growth_window").tolist()
        return cls(
            fields.array("samples", 1),
            fields.texts("families"),
            fields.integers("family_of"),
            fields.array("curve", 1),
            fields.number("growth_rate"),
            (first, end),
            fields.object("provenance"),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically."""
        write_json(path, {"format": FORMAT, "version": VERSION, **self.to_json()}, function="RolloutError.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RolloutError:
        """Read what `save` wrote.

        Raises:
            FileFormatError: missing, truncated, foreign, of another version, or inconsistent in itself.
        """
        fields = read_json(path, format=FORMAT, version=VERSION, function="RolloutError.load")
        found = cls.from_fields(fields)
        if len(found.family_of) != len(found.samples) or not np.array_equal(
            np.unique(found.family_of), np.arange(len(found.families))
        ):
            raise FileFormatError(f"{fields.where}: inconsistent content: samples and families do not match")
        return found

    def __str__(self) -> str:
        low, high = self.interval
        families = ", ".join(f"{name} {format_number(value)}" for name, value in self.damage_of_family.items())
        return (
            f"damage {format_number(self.damage)} (95 % interval {format_number(low)} to {format_number(high)}; "
            f"{families}), "
            f"growth {format_number(self.growth_rate)} per value"
        )


def evaluate(
    system: System,
    module: torch.nn.Module,
    *,
    horizon: int = 64,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    engine: str = "auto",
    seed: int = 1,
) -> RolloutError:
    """Roll `module` and the float model out from the same states and measure the damage.

    Args:
        system: holds the float model and the step.
        module: a drop-in for `system.module`, e.g. what `quantize` returned.
        horizon: output values, T.
        initial: where rollouts start; 16 of `system.default_initial` by default.
        engine: runs both: "native" captures the step and rolls it out in C++, packed weights as they are; "torch" works
            for any module; "auto" is "native" where the step can be captured with either module, else "torch", with the
            reason in `provenance["engine"]["reason"]`; "native:cuda" as in `score`.
        seed: of the initial conditions. The default differs from that of `score`, so that a plan is judged on states
            that scoring never saw.

    Raises:
        ArgumentError: arguments that do not fit the system, or outputs of another shape.
        CaptureError: the native engine was asked for and cannot run the step with one of the modules.
        DivergenceError: the float rollout diverges or is constant.
    """
    states = draw(default_initial(system) if initial is None else initial, system, horizon=horizon, seed=seed)
    modules = [system.module, module.eval()]
    (plain, outputs), how = roll_modules(system, modules, states, horizon, engine=engine, function="evaluate")
    reference = roll_reference(system, states, horizon, outputs=plain)
    if outputs.shape != reference.outputs.shape:
        raise ArgumentError(
            f"[evaluate] expected outputs of shape {list(reference.outputs.shape)} from the module, "
            f"got {list(outputs.shape)}; it is not a drop-in for the system's own"
        )
    statistics = ErrorStatistics(reference, family_weights(states), 1)
    statistics.update(outputs.transpose(0, 1))
    errors = statistics.result()
    curve = errors.curve[0].numpy()
    rate, window = growth_rate(curve)
    provenance = {
        "system": system.name,
        "horizon": horizon,
        "initial": states.description,
        "seed": seed,
        "engine": {"requested": engine, **how, "isa": kernels.isa(), "tf32": tf32_asked()},
    }
    return RolloutError(errors.samples[0].numpy(), states.families, states.family_of, curve, rate, window, provenance)
