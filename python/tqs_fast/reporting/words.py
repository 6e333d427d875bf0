"""A report in words: what the plan is, what was measured, and what to do next."""

from __future__ import annotations

import math

from tqs_fast._table import format_count, format_number
from tqs_fast.reporting.evidence import Evidence, Point
from tqs_fast.reporting.markup import Markup, element, join
from tqs_fast.scoring import RolloutError

SATURATED = 0.3  # two unrelated trajectories have 2; beyond this many rollouts have lost their start
FACTOR = 2.0  # predictions are first-order; further off than this they do not rank plans well


def damage_text(value: float) -> str:
    """A damage for readers: three digits, "diverged" or "unknown"."""
    if math.isnan(value):
        return "unknown"
    return "diverged" if math.isinf(value) else format_number(value)


def interval_text(error: RolloutError) -> str:
    """The 95 % interval of a measured damage."""
    low, high = error.interval
    return f"{damage_text(low)} to {damage_text(high)}"


def ratio_text(ours: RolloutError, theirs: RolloutError) -> str:
    """Our damage over theirs with its paired interval."""
    ratio, low, high = ours.ratio(theirs)
    if not all(map(math.isfinite, (ratio, low, high))):
        return "not comparable"
    return f"{format_number(ratio)} ({format_number(low)} to {format_number(high)})"


def measurements(evidence: Evidence) -> list[tuple[str, RolloutError]]:
    """What was measured of the plan itself: where, and the errors."""
    found = [(f"evaluation “{name}”", error) for name, error in evidence.evaluations.items()]
    if evidence.this.error is not None:
        found.append(("the deciding set of the search", evidence.this.error))
    return found


def facts(evidence: Evidence) -> list[str]:
    """Sentences of the summary."""
    table, this = evidence.table, evidence.this
    plan = this.plan
    origin = table.provenance
    horizon = origin.get("horizon", table.curve.shape[2])
    method = origin.get("method", {})
    by = f" by {method['name']}" if isinstance(method, dict) and "name" in method else ""
    said = [
        f"{len(table.layers)} layers with {format_count(plan.parameters)} weights were scored{by} at "
        f"{', '.join(map(str, table.bits))} bits over {horizon} output values, from {table.samples.shape[2]} initial "
        f"conditions ({', '.join(table.families)}).",
        f"The plan ({plan.method}) stores them in {format_count(plan.bytes)} bytes: {plan.average_bits:.2f} bits a "
        f"weight with scales, {plan.compression:.2f} times smaller than float32.",
        f"Predicted damage, the sum of what its layers do alone: {damage_text(this.predicted)}.",
    ]
    said += [
        f"Measured damage, {where} ({len(error.samples)} rollouts): {damage_text(error.damage)}, 95 % interval "
        f"{interval_text(error)}."
        for where, error in measurements(evidence)
    ]
    said += [sentence for sentence in (_against_uniform(evidence), _share(evidence), _diverged(evidence)) if sentence]
    return said


def advice(evidence: Evidence) -> list[Markup]:
    """What to do next, most urgent first."""
    this, system = evidence.this, str(evidence.table.provenance.get("system", "SYSTEM"))
    found = [error for _, error in measurements(evidence)]
    damage = max((error.damage for error in found), default=math.nan)
    better = _better(this, evidence.measured)
    said: list[tuple[str, str | None]] = []
    if math.isinf(this.predicted) or math.isinf(damage):
        said.append(("A rollout of this plan diverges: give more bytes, or keep layers that diverge in float.", None))
    elif damage > SATURATED:
        said.append(("The errors are saturated: give more bytes, or judge over a shorter horizon.", None))
    if not found:
        command = f"tqs-fast evaluate {system} plan.json --out evaluation.json"
        said.append(("Nothing was rolled out with this plan yet. Measure it: ", command))
    elif 0 < this.predicted < math.inf and math.isfinite(damage):
        factor = damage / this.predicted
        if not 1 / FACTOR <= factor <= FACTOR:
            sentence = (
                f"Measured damage is {format_number(factor)} times the prediction: the errors of layers add up "
                "or cancel, or the judged states differ from the scored ones. Trust measurements, not the sum."
            )
            said.append((sentence, None))
    if better is not None:
        said.append(
            (f"The search measured less damage for “{better.name}”, which is not larger: take that plan.", None)
        )
    if evidence.search is None:
        command = f"tqs-fast search {system} table.json plan.json"
        said.append(("Look for a better plan of the same size: ", command))
    elif better is None and found:
        command = f"tqs-fast quantize {system} plan.json --out small.safetensors"
        said.append(("No plan that was measured does better at this size. Pack the model: ", command))
    if found and not evidence.evaluations:
        said.append(("Before shipping, evaluate on states of your own that scoring and search have not seen.", None))
    return [join(text, None if command is None else element("code", command)) for text, command in said]


def _against_uniform(evidence: Evidence) -> str | None:
    this, base = evidence.this, evidence.baseline
    if base is None or this.kind == base.kind:
        return None
    named = f"{base.name}, the largest uniform plan that fits ({format_count(base.plan.bytes)} bytes)"
    if this.error is not None and base.error is not None:
        _, low, high = this.error.ratio(base.error)
        certain = "" if low > 1 or high < 1 else "; the interval holds 1, so neither is shown to be better"
        return f"Measured damage over that of {named}: {ratio_text(this.error, base.error)}{certain}."
    if 0 < base.predicted < math.inf and math.isfinite(this.predicted):
        return f"Predicted damage over that of {named}: {format_number(this.predicted / base.predicted)}."
    return None


def _share(evidence: Evidence) -> str | None:
    """The layer that dominates the prediction."""
    table, this = evidence.table, evidence.this
    if not 0 < this.predicted < math.inf:
        return None
    of_layer = {
        name: 0.0 if bits is None else float(table.damage[i, table.bits.index(bits)])
        for i, (name, bits) in enumerate(this.plan.bits.items())
    }
    name = max(of_layer, key=lambda layer: of_layer[layer])
    return f"{name} has the largest share of the predicted damage, {100 * of_layer[name] / this.predicted:.0f} %."


def _diverged(evidence: Evidence) -> str | None:
    count = int((evidence.table.samples == math.inf).any(axis=2).sum())
    return f"{count} of the scored variants (a layer at a bit-width) diverged." if count else None


def _better(this: Point, measured: tuple[Point, ...]) -> Point | None:
    if this.error is None:
        return None
    rivals = [p for p in measured if p.plan.bytes <= this.plan.bytes and p.measured < this.measured and not p.hurts]
    return min(rivals, key=lambda point: point.measured, default=None)
