"""Which weights of a plan round the rows they multiply to int8: those where rollouts show the same damage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from tqs_fast._files import encode_array
from tqs_fast.allocation.plan import Plan
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.weights import Weight, kind_of
from tqs_fast.rewriting.convolution import SHORT_ROW
from tqs_fast.rewriting.rewrite import planned_weights, quantize
from tqs_fast.scoring.evaluate import RolloutError, evaluate
from tqs_fast.systems import InitialConditions, System, default_initial

COUNT = 64  # initial conditions by default: with 16 the interval of a ratio is often wider than the tolerance


def choose_activations(
    system: System,
    plan: Plan,
    *,
    tolerance: float = 0.05,
    horizon: int = 64,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
    engine: str = "auto",
    seed: int = 2,
) -> Plan:
    """`plan` with int8 activations where they do the same damage as float ones.

    Damage is that of `evaluate`, of the packed model. It counts as the same where the upper end of the 95 % interval of
    damage(int8) / damage(float), initial conditions paired, is at most 1 + `tolerance`, over all families and in each.

    All weights are tried at once. Where that is not the same damage they are halved, again and again, largest first
    (the time saved goes with the size): a half is kept where it does the same damage together with what was kept
    before, so that the plan returned is one that was measured. With k weights, d of which must stay float, this takes
    about d log2(k) evaluations, and never more than 2 k.

    Args:
        system: the float model; its module is not modified.
        plan: its bits are kept; activations that it has are chosen anew.
        tolerance: how much more damage counts as the same.
        horizon: output values per rollout.
        initial: where rollouts start; 64 of `system.default_initial` by default. With few of them the interval is wide,
            and weights stay float that more would have shown to be good.
        engine: as in `evaluate`.
        seed: of the initial conditions. The default is neither that of `score` nor that of `evaluate`, so that
            `evaluate` judges the result on states that this choice never saw.

    Returns:
        The plan; `provenance["activations"]` holds the tolerance, the ratio measured for the plan with its interval and
        families, the ratio that kept each other weight float, and what was rolled out. Embeddings and convolutions with
        short rows, which dequantize, are left alone. Where a rollout diverges nothing is shown to be the same.

    Raises:
        ArgumentError: a tolerance below 0, or a plan or arguments that do not fit the system.
        CaptureError, DivergenceError: as in `evaluate`.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise ArgumentError(f"[choose_activations] tolerance must be a number >= 0, got {tolerance!r}")
    plan = replace(plan, activations={})
    blocks = {
        weight.name: [block.name for block in parts]
        for weight, parts in sorted(planned_weights(system.module, plan), key=lambda pair: -pair[0].parameters)
        if _multiplies(system.module, weight)
    }
    given = default_initial(system, COUNT) if initial is None else initial
    judge = _Judge(
        system, plan, blocks, tolerance, {"horizon": horizon, "initial": given, "engine": engine, "seed": seed}
    )
    kept, refused = _split(judge, list(blocks))
    evidence: dict[str, Any] = {
        "tolerance": tolerance,
        "horizon": horizon,
        "seed": seed,
        **judge.described(),
        **(judge.verdict(kept).to_json() if kept else {"ratio": None, "interval": None, "families": {}}),
        "refused": {name: verdict.to_json() for name, verdict in refused.items()},
    }
    return replace(judge.plan_with(kept), provenance={**plan.provenance, "activations": evidence})


@dataclass(frozen=True)
class Verdict:
    """Damage with int8 activations of some weights over damage with none: (ratio, low, high)."""

    overall: tuple[float, float, float]
    families: dict[str, tuple[float, float, float]]

    def same(self, tolerance: float) -> bool:
        """False for NaN, too."""
        return all(high <= 1 + tolerance for _, _, high in (self.overall, *self.families.values()))

    def to_json(self) -> dict[str, Any]:
        return {
            "ratio": encode_array(self.overall[0]),
            "interval": encode_array(self.overall[1:]),
            "families": {name: encode_array(ratio) for name, ratio in self.families.items()},
        }


@dataclass
class _Judge:
    """Measures sets of weights, each once.

    Attributes:
        blocks: by weight, its row blocks in the plan.
        question: keywords of `evaluate`.
    """

    system: System
    plan: Plan
    blocks: dict[str, list[str]]
    tolerance: float
    question: dict[str, Any]
    _known: dict[frozenset[str], Verdict] = field(default_factory=dict)
    _errors: list[RolloutError] = field(default_factory=list)  # the first without int8 activations

    def plan_with(self, weights: Sequence[str]) -> Plan:
        """The plan with int8 activations of these weights."""
        return replace(self.plan, activations={name: "int8" for weight in weights for name in self.blocks[weight]})

    def same(self, weights: Sequence[str]) -> bool:
        """Whether int8 activations of these weights do the same damage as none."""
        return self.verdict(weights).same(self.tolerance)

    def verdict(self, weights: Sequence[str]) -> Verdict:
        key = frozenset(weights)
        if key not in self._known:
            base = self._errors[0] if self._errors else self._measure([])
            error = self._measure(weights)
            of_family = {name: error.ratio(base, family=name) for name in error.families}
            self._known[key] = Verdict(error.ratio(base), of_family)
        return self._known[key]

    def described(self) -> dict[str, Any]:
        """What was rolled out."""
        made = self._errors[0].provenance if self._errors else {}
        return {
            "evaluations": len(self._errors),
            **{name: made[name] for name in ("initial", "engine") if name in made},
        }

    def _measure(self, weights: Sequence[str]) -> RolloutError:
        module = quantize(self.system.module, self.plan_with(weights))
        self._errors.append(evaluate(self.system, module, **self.question))
        return self._errors[-1]


def _split(judge: _Judge, weights: list[str]) -> tuple[list[str], dict[str, Verdict]]:
    """The weights to round, and what was measured with each of the others."""
    kept: list[str] = []
    refused: dict[str, Verdict] = {}
    pending = [weights] if weights else []
    while pending:
        group = pending.pop()
        if judge.same([*kept, *group]):
            kept += group
        elif len(group) == 1:
            refused[group[0]] = judge.verdict([*kept, *group])
        else:
            half = (len(group) + 1) // 2
            pending += [group[half:], group[:half]]
    return kept, refused


def _multiplies(module: nn.Module, weight: Weight) -> bool:
    """Whether some owner multiplies the packed weight, rather than dequantizing it."""
    short = math.prod(weight.shape[1:]) < SHORT_ROW
    kinds = {kind_of(module.get_submodule(path)) or "" for path, _ in weight.owners}
    return any(kind != "Embedding" and not (short and kind.startswith("Conv")) for kind in kinds)
