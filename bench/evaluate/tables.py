"""Markdown for docs/evidence.md, from the condensed document alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluate.condense import as_ratio, counts, geometric_mean

Document = dict[str, Any]


def markdown(document: Document) -> str:
    """Everything: provenance, who wins how often, ratios by system, losses by name, costs, errors against the truth."""
    cells = document["cells"]
    sections = [
        provenance(document),
        "### Wins, ties, losses\n\n" + verdicts(cells),
        "### Damage over uniform, by system\n\n" + by_system(cells),
        "### Damage over uniform, by judge\n\n" + by_judge(cells),
        "### Losses, by name\n\n" + losses(cells),
        "### Cost of a table\n\n" + costs(cells),
        "### Time to a searched plan\n\n" + searches(cells),
        "### Against the truth\n\n" + truth(cells),
    ]
    return "\n\n".join(sections) + "\n"


def provenance(document: Document) -> str:
    """Where the figures come from."""
    cells = document["cells"]
    systems = sorted({cell["system"] for cell in cells})
    lines = [f"{len(cells)} cells of {len(systems)} systems; {sum(c['saturated'] for c in cells)} beyond saturation."]
    for machine in document["machines"]:
        lines.append(
            f"{machine['cpu']} ({machine['isa']}, {machine['threads']} thread), commit {machine['commit']}, "
            f"tqs-fast {machine['tqs-fast']}, torch {machine['torch']}, numpy {machine['numpy']}, {machine['date']}."
        )
    return "\n".join(lines)


def verdicts(cells: Sequence[Document]) -> str:
    """Wins / ties / losses of every method against uniform, filled uniform and the best rival."""
    references = [name for name in ("uniform", "uniform-filled", "best rival") if any_has(cells, name)]
    rows = []
    for label, part in (("all", cells), ("below saturation", [c for c in cells if not c["saturated"]])):
        for method in methods_of(cells):
            row = [label, method]
            for reference in references:
                found = [
                    as_ratio(c["comparisons"][method][reference])
                    for c in part
                    if reference in c["comparisons"].get(method, {})
                ]
                tally = counts([entry.verdict for entry in found])
                middle = geometric_mean([entry.value for entry in found]) if found else float("nan")
                better = share(sum(entry.value < 1 for entry in found), len(found))
                row.append(f"{tally['win']} / {tally['tie']} / {tally['loss']} ({better} below 1, mean {middle:.2g})")
            rows.append(row)
    return table(["cells", "method", *(f"against {reference}" for reference in references)], rows)


def by_judge(cells: Sequence[Document]) -> str:
    """Damage over uniform's on each judge, geometric mean over the cells below saturation."""
    part = [cell for cell in cells if not cell["saturated"]]
    methods = [method for method in methods_of(part) if method != "uniform"]
    rows = []
    for system, judge in dict.fromkeys((c["system"], judge) for c in part for judge in c["by_judge"]["uniform"]):
        own = [c for c in part if c["system"] == system]
        found = [[as_ratio(c["by_judge"][m][judge]).value for c in own if m in c["by_judge"]] for m in methods]
        middles = [f"{geometric_mean(values):.2g}" if values else "" for values in found]
        rows.append([system, judge, str(len(own)), *middles])
    return table(["system", "judged on", "cells", *methods], rows)


def by_system(cells: Sequence[Document]) -> str:
    """Geometric mean over seeds of damage over uniform's, per system, horizon and size."""
    methods = [method for method in methods_of(cells) if method != "uniform"]
    keys = list(dict.fromkeys((c["system"], c["horizon"], c["average_bits"]) for c in cells))
    rows = []
    for key in keys:
        part = [c for c in cells if (c["system"], c["horizon"], c["average_bits"]) == key]
        uniform = mean([value(c["uniform_damage"]) for c in part])
        mark = " (saturated)" if all(c["saturated"] for c in part) else ""
        rows.append(
            [key[0], str(key[1]), f"{key[2]:g}", f"{uniform:.2g}{mark}"]
            + [
                ratio_text([as_ratio(c["comparisons"][m]["uniform"]).value for c in part if m in c["comparisons"]])
                for m in methods
            ]
        )
    return table(["system", "horizon", "bits", "damage of uniform", *methods], rows)


def losses(cells: Sequence[Document]) -> str:
    """Cells that a method lost to uniform, and a search to the best rival, with the ratio and its interval."""
    found = [
        (method, reference, as_ratio(against[reference]), cell)
        for cell in cells
        for method, against in cell["comparisons"].items()
        for reference in ("uniform", *(["best rival"] if cell["methods"][method]["search"] else []))
        if reference in against and as_ratio(against[reference]).verdict == "loss"
    ]
    if not found:
        return "None."
    found.sort(key=lambda item: (item[0], item[1], -item[2].value))
    rows = [
        [
            method, cell["best_rival"] + " (best rival)" if reference == "best rival" else reference, cell["system"],
            str(cell["horizon"]), f"{cell['average_bits']:g}", str(cell["seed"]),
            f"{lost.value:.3g} ({lost.low:.3g} to {lost.high:.3g})", "yes" if cell["saturated"] else "",
        ]
        for method, reference, lost, cell in found
    ]  # fmt: skip
    return table(["method", "lost to", "system", "horizon", "bits", "seed", "ratio of damages", "saturated"], rows)


def costs(cells: Sequence[Document]) -> str:
    """Seconds of every scorer, and as a multiple of one forward rollout of its initial conditions; medians."""
    scorers = [m for m in methods_of(cells) if any((c["methods"].get(m) or {}).get("score") for c in cells)]
    keys = list(dict.fromkeys((c["system"], c["horizon"]) for c in cells))
    rows = []
    for key in keys:
        part = [c for c in cells if (c["system"], c["horizon"]) == key]
        row = [key[0], str(key[1]), str(part[0]["layers"])]
        for scorer in scorers:
            found = [c["methods"][scorer]["score"] for c in part if scorer in c["methods"]]
            if not found:
                row.append("")
                continue
            seconds = np.median([cost["seconds"] for cost in found])
            forwards = np.median([cost["seconds"] / cost["forward_seconds"] for cost in found])
            row.append(f"{seconds:.2g} s ({forwards:.3g})")
        rows.append(row)
    return table(["system", "horizon", "layers", *scorers], rows)


def searches(cells: Sequence[Document]) -> str:
    """Seconds from nothing to a searched plan of 4 bits on average (scoring and search; medians over seeds), and how
    many searches, of all sizes, kept a plan that they had found themselves.
    """
    rows = []
    for system, horizon, method in dict.fromkeys(
        (c["system"], c["horizon"], m) for c in cells for m, entry in c["methods"].items() if entry["search"]
    ):
        part = [c for c in cells if (c["system"], c["horizon"]) == (system, horizon) and method in c["methods"]]
        found = [c["methods"][method]["search"] for c in part]
        timed = [c["methods"][method]["search"] for c in part if c["average_bits"] == 4]
        seconds = [
            np.median([cost[key] for cost in timed]) if timed else np.nan for key in ("table_seconds", "seconds")
        ]
        own = sum(cost["chosen"].startswith("searched") for cost in found)
        rows.append(
            [
                method, system, str(horizon), f"{seconds[0]:.2g} + {seconds[1]:.2g} s", f"{own} of {len(found)}",
                f"{np.median([cost['evaluations'] for cost in found]):.0f}",
            ]
        )  # fmt: skip
    return table(
        ["method", "system", "horizon", "scoring + search, 4 bits", "found a better plan", "plans measured"], rows
    )


def truth(cells: Sequence[Document]) -> str:
    """Scaled error (MASE) against what really followed, of the float model and of every method; for chaotic flows also
    valid prediction times in Lyapunov times. Means over sizes and seeds at the longer horizon.
    """
    if not cells:
        return "None."
    longest = max(cell["horizon"] for cell in cells)
    part = [cell for cell in cells if cell["horizon"] == longest and cell["float_truth"]]
    methods = methods_of(part)
    rows = []
    for system, judge in dict.fromkeys((c["system"], judge) for c in part for judge in c["float_truth"]):
        own = [c for c in part if c["system"] == system and judge in c["float_truth"]]
        for figure, pattern in (("mase", "{:.3g}"), ("valid_lyapunov_times", "{:.2f}")):
            if own[0]["float_truth"][judge][figure] is None:
                continue
            readings: list[Callable[[Document], Document | None]] = [lambda c: c["float_truth"]]
            readings += [lambda c, m=m: c["methods"].get(m, {}).get("truth") for m in methods]
            row = [system, judge, "MASE" if figure == "mase" else "valid Lyapunov times"]
            for reading in readings:
                values = [found[judge][figure] for c in own if (found := reading(c)) is not None]
                row.append(pattern.format(mean([value(v) for v in values])) if values else "")
            rows.append(row)
    return table(["system", "judge", "figure", "float", *methods], rows)


def methods_of(cells: Sequence[Document]) -> list[str]:
    """Every method, in the order of the suite."""
    return list(dict.fromkeys(method for cell in cells for method in cell["methods"]))


def any_has(cells: Sequence[Document], reference: str) -> bool:
    return any(reference in against for cell in cells for against in cell["comparisons"].values())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def value(stored: float | str | None) -> float:
    """A number as the document has it."""
    return float("nan") if stored is None else float(stored)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def ratio_text(ratios: Sequence[float]) -> str:
    """Geometric mean, and smallest to largest where they differ."""
    if not ratios:
        return ""
    middle = geometric_mean(ratios)
    spread = f" ({min(ratios):.2g}–{max(ratios):.2g})" if min(ratios) < max(ratios) else ""
    return f"{middle:.2g}{spread}"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"
