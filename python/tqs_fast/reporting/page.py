"""The page: sections in reading order, and nothing that needs a network or a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tqs_fast._table import format_count
from tqs_fast._version import __version__
from tqs_fast.reporting.charts import agreement_chart, curves_chart, frontier_chart, intervals_chart
from tqs_fast.reporting.evidence import Evidence
from tqs_fast.reporting.markup import Markup, element, join
from tqs_fast.reporting.style import style_sheet
from tqs_fast.reporting.tables import (
    Cell,
    curves_table,
    folded,
    frontier_table,
    heat_map,
    html_table,
    measured_table,
    plan_table,
)
from tqs_fast.reporting.words import advice, damage_text, facts, interval_text, measurements

# A reader's browser refuses everything but the page itself, whatever text it shows.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
LONGEST = 300  # characters of one value of the provenance


def page(evidence: Evidence) -> str:
    """The whole document."""
    system = str(evidence.table.provenance.get("system", "model"))
    title = f"Quantization plan of {system}"
    sections: dict[str, tuple[str, Callable[[Evidence], Markup]]] = {
        "summary": ("Summary", _summary),
        "layers": ("Damage of every layer", _layers),
        "time": ("Errors over time", _time),
        "sizes": ("Damage against size", _sizes),
        "measurements": ("Predicted and measured", _measurements),
        "bits": ("The plan", _plan),
        "origin": ("How it was obtained", _origin),
    }
    links = [element("li", element("a", heading, href=f"#{name}")) for name, (heading, _) in sections.items()]
    body = [
        element(
            "section",
            element("h2", heading, id=f"{name}-heading"),
            draw(evidence),
            id=name,
            aria_labelledby=f"{name}-heading",
        )
        for name, (heading, draw) in sections.items()
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style_sheet())),
    )
    content = element(
        "body",
        element("a", "Skip to the summary", href="#content", class_="skip"),
        element("header", element("h1", title), element("nav", element("ul", *links), aria_label="sections")),
        element("main", *body, id="content", tabindex="-1"),
        element("footer", element("p", f"Written by tqs-fast {__version__}.", class_="note")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, content, lang='en')}\n"


def _summary(evidence: Evidence) -> Markup:
    plan = evidence.plan
    figures = [
        ("plan", plan.method, None),
        ("bytes", format_count(plan.bytes), f"{plan.average_bits:.2f} bits a weight"),
        ("predicted damage", damage_text(evidence.this.predicted), "sum over layers"),
    ]
    figures += [
        ("measured damage", damage_text(error.damage), f"{interval_text(error)}; {where}")
        for where, error in measurements(evidence)
    ] or [("measured damage", "not measured", None)]
    tiles = [
        element("div", element("dt", name), element("dd", value, element("small", note) if note else None))
        for name, value, note in figures
    ]
    return join(
        element("dl", *tiles, class_="figures"),
        element("ul", *(element("li", sentence) for sentence in facts(evidence)), class_="facts"),
        element("h3", "What to do next"),
        element("ul", *(element("li", sentence) for sentence in advice(evidence)), class_="next"),
        element(
            "p",
            "Damage is the mean squared error of the rollout against the float model, scaled by the variance of its "
            "outputs and averaged over time and initial conditions: 0.01 is an error of a tenth of a standard "
            "deviation.",
            class_="note",
        ),
    )


def _layers(evidence: Evidence) -> Markup:
    method = evidence.table.provenance.get("method", {})
    meaning = method.get("meaning") if isinstance(method, dict) else None
    note = element("p", f"What the figures are: {meaning}.", class_="note") if meaning else None
    return join(note, heat_map(evidence))


def _time(evidence: Evidence) -> Markup:
    if evidence.table.curve.shape[2] < 2:
        return element("p", "This method does not roll layers out, so there is no error over time to show.")
    table = evidence.table
    return join(curves_chart(table), folded("Figures of the error curves", curves_table(table)))


def _sizes(evidence: Evidence) -> Markup:
    return join(frontier_chart(evidence), folded("Figures of the frontier", frontier_table(evidence)))


def _measurements(evidence: Evidence) -> Markup:
    if not measurements(evidence) and not evidence.measured:
        return element("p", "Nothing was measured: the report was given neither a search nor an evaluation.")
    return join(intervals_chart(evidence), measured_table(evidence), agreement_chart(evidence))


def _plan(evidence: Evidence) -> Markup:
    return plan_table(evidence.plan.table())


def _origin(evidence: Evidence) -> Markup:
    plan = evidence.plan
    # Said in a table of its own.
    shown = {"sensitivity"} | (set() if evidence.search is None else {"search"})
    of_plan = {key: value for key, value in plan.provenance.items() if key not in shown}
    parts = [
        ("Sensitivity table", evidence.table.provenance),
        ("Plan", {"method": plan.method, "budget": plan.budget, **of_plan}),
    ]
    if evidence.search is not None:
        kept = {"kept": evidence.search.chosen, "stopped": evidence.search.stopped}
        parts.append(("Search", kept | evidence.search.provenance))
    parts += [(f"Evaluation “{name}”", error.provenance) for name, error in evidence.evaluations.items()]
    return join(
        *(
            html_table(f"origin-{i}", name, ("item", "value"), (False, False), list(_described(values)))
            for i, (name, values) in enumerate(parts)
        )
    )


def _described(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Cell]]:
    """One row for each value, named by its place."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _described(value, f"{prefix}{key}, ")
        else:
            yield f"{prefix}{key}", (_value(value), "value")


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "none" if value in (None, {}, []) else text
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
