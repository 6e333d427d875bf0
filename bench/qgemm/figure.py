"""The results of bench_qgemm as a figure for the docs: speed next to peers and limit, and ours over the best peer."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

Case = dict[str, Any]
FAMILIES = {"int8": "activations rounded to int8", "float": "activations as they are"}
OURS = {"tqs-fast int8": "C3", "tqs-fast float32": "C3", "tqs-fast bfloat16": "C1"}
PEERS = ("C0", "C2", "C4", "C5", "C6", "C9")
MARKERS = "osvDP^"
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}
LIMITS = {"int8": ":", "float32": ":", "bfloat16": "-."}


def draw(document: dict[str, Any], path: str) -> None:
    """The first layer of the results with the most threads in rows of panels, one per family, a column per format; then
    ours over the best peer of all layers. Cold where that was measured.
    """
    threads = max(case["threads"] for case in document["results"])
    cases = _settled([case for case in document["results"] if case["threads"] == threads])
    formats = list(dict.fromkeys(map(_format, cases)))
    first = _layer(cases[0])
    with matplotlib.rc_context({"svg.hashsalt": "qgemm", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(1.8 + 3.8 * len(formats), 10), layout="constrained")
        panels = figure.subplots(3, len(formats), sharex=True, squeeze=False)
        for column, kind in enumerate(formats):
            here = [case for case in cases if _format(case) == kind]
            one = [case for case in here if _layer(case) == first]
            for row, family in enumerate(FAMILIES):
                _draw_speed(panels[row][column], one, family, _names(cases, family))
                panels[row][column].set_title(f"{kind}, {first}\n{FAMILIES[family]}")
            _draw_ratios(panels[2][column], here)
            panels[2][column].set_title(f"{kind}, all layers")
            panels[2][column].set_xlabel("rows of activations M")
        for row in panels:
            named = {name: line for panel in row for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
            row[-1].legend(named.values(), named.keys(), **BESIDE)
        rows = sorted({case["M"] for case in cases})
        for panel in panels.flat:
            panel.set_xscale("log", base=2)
            panel.set_xticks(rows, [str(count) for count in rows])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.grid(alpha=0.3, linewidth=0.5)
        machine = document["machine"]
        figure.suptitle(
            f"{machine['cpu']}, {threads} thread(s), {machine['isa']}, commit {machine['commit']}; "
            "weights cold where M is small, else hot"
        )
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def _settled(cases: list[Case]) -> list[Case]:
    """One state of every case: cold if there is one."""
    found: dict[tuple[Any, ...], Case] = {}
    for case in cases:
        key = (_layer(case), _format(case), case["M"])
        if key not in found or case["state"] == "cold":
            found[key] = case
    return list(found.values())


def _layer(case: Case) -> str:
    shape = f"{case['N']}x{case['K']}"
    return shape if case["layer"] == shape else f"{case['layer']} {shape}"


def _format(case: Case) -> str:
    return f"int{case['bits']} {'groups of ' + str(case['group_size']) if case['group_size'] else 'per channel'}"


def _names(cases: list[Case], family: str) -> list[str]:
    """The peers of a family, which look the same in every panel."""
    rows = {name: row for case in cases for name, row in case["contestants"].items() if name not in OURS}
    return [name for name, row in rows.items() if (row["activations"] == "int8") == (family == "int8")]


def _draw_speed(panel: Any, cases: list[Case], family: str, names: list[str]) -> None:
    """Operations per second of every contestant of the family, and the limits of the types that it takes."""
    rows: dict[str, list[tuple[int, float]]] = {}
    limits: dict[str, list[tuple[int, float]]] = {}
    for case in cases:
        operations = 2e-9 * case["M"] * case["N"] * case["K"]
        for name, row in case["contestants"].items():
            activations = row["activations"]
            if (activations == "int8") != (family == "int8"):
                continue
            if "median_seconds" in row:
                rows.setdefault(name, []).append((case["M"], operations / row["median_seconds"]))
            if least := case["limits"][activations]:
                limits.setdefault(activations, []).append((case["M"], operations / least["seconds"]))
    for activations, points in limits.items():
        panel.plot(*zip(*dict(points).items(), strict=True), "k" + LIMITS[activations], label=f"limit, {activations}")
    for name in (name for name in OURS if name in rows):
        panel.plot(*zip(*rows[name], strict=True), "-o", color=OURS[name], linewidth=2.2, markersize=4, label=name)
    for name in (name for name in rows if name not in OURS):
        place = names.index(name) % len(PEERS)
        style = {"color": PEERS[place], "marker": MARKERS[place]}
        panel.plot(*zip(*rows[name], strict=True), linewidth=0.9, markersize=3.5, label=name, **style)
    panel.set_yscale("log")
    panel.set_ylabel("2 M N K / time, 10⁹/s")


def _draw_ratios(panel: Any, cases: list[Case]) -> None:
    """How many times as fast as the best peer, with its interval: int8 solid, float32 (peers of that type) dashed."""
    layers = list(dict.fromkeys(map(_layer, cases)))
    for name, against, style in (("tqs-fast int8", "peer", "-"), ("tqs-fast float32", "alike", "--")):
        for place, layer in enumerate(layers):
            found = [
                (case["M"], case["ours"][name][against]["ratio"])
                for case in cases
                if _layer(case) == layer and against in case["ours"].get(name, {})
            ]
            if not found:
                continue
            rows, speed = [m for m, _ in found], [1 / ratio["median"] for _, ratio in found]
            below = [s - 1 / ratio["high"] for s, (_, ratio) in zip(speed, found, strict=True)]
            above = [1 / ratio["low"] - s for s, (_, ratio) in zip(speed, found, strict=True)]
            panel.errorbar(
                rows, speed, (below, above), color=f"C{place}", linestyle=style, marker="o", markersize=3,
                linewidth=1, elinewidth=0.6, label=f"{name.split()[1]}, {layer}",
            )  # fmt: skip
    panel.axhline(1, color="k", linewidth=0.8)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_ylabel("time of the best peer / ours")
