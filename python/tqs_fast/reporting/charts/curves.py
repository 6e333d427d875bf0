"""Error curves of all layers, one panel for each bit-width, on one logarithmic axis."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tqs_fast.reporting.charts.axes import Frame, Scale, f1, logarithmic
from tqs_fast.reporting.charts.figure import WIDTH, figure
from tqs_fast.reporting.charts.marks import spread
from tqs_fast.reporting.markup import Markup, element, join
from tqs_fast.reporting.palette import DASHES
from tqs_fast.scoring import Sensitivity
from tqs_fast.scoring.figures import most_damaging

PANEL_HEIGHT = 270.0
POINTS = 64  # of a curve; more than a panel has room for would only make the page larger
LETTERS = "ABCDEF"

FloatArray = npt.NDArray[np.float64]


def curves_chart(table: Sensitivity) -> Markup:
    """The six most damaging layers drawn apart and named, all others as thin lines."""
    L, B, T = table.curve.shape
    first = most_damaging(table.damage)[: len(DASHES)]
    steps = np.unique(np.linspace(0, T - 1, min(T, POINTS)).round().astype(int))
    curves = table.curve[:, :, steps]
    rows = -(-B // 2)
    height = rows * PANEL_HEIGHT
    values = curves.ravel().tolist()
    panels = []
    for j, bits in enumerate(table.bits):
        left, top = (j % 2) * WIDTH / 2 + 52, (j // 2) * PANEL_HEIGHT + 34
        x = Scale(1, float(T), left, left + WIDTH / 2 - 80)
        y = logarithmic(values, top + PANEL_HEIGHT - 84, top)
        panels.append(_panel(Frame(x, y), steps, curves[:, j], first, f"{bits} bits"))
    names = [table.layers[i].name for i in first]
    samples = [
        element(
            "li",
            element(
                "svg",
                element("path", d="M1 8H39", class_=f"curve s{k} d{k}"),
                view_box="0 0 40 16",
                class_="sample long",
                aria_hidden="true",
            ),
            f" {LETTERS[k]}: {name}",
        )
        for k, name in enumerate(names)
    ]
    rest = f", the other {L - len(first)} layers thin and grey" if len(first) < L else ""
    lost = int((~np.isfinite(table.curve)).any(axis=2).sum())
    return figure(
        "curves",
        join(*panels),
        height=height,
        title="Error curves of every layer, one panel for each bit-width",
        description=(
            f"Mean squared error of the rollout against the float model at each of {T} values, for {L} layers rounded "
            f"one at a time to {', '.join(map(str, table.bits))} bits. The most damaging layer is {names[0]}. The "
            "figures are in the table below."
        ),
        caption=(
            "Squared error scaled by the variance of the reference, averaged over initial conditions, one layer "
            f"rounded at a time. Letters mark the {len(first)} most damaging layers{rest}. A straight rise is "
            "exponential growth; a curve that flattens near 1 has forgotten its start."
            + (f" {lost} curves end where the rollout diverged." if lost else "")
        ),
        key=element("ul", *samples, class_="legend"),
    )


def _panel(frame: Frame, steps: npt.NDArray[np.int64], curves: FloatArray, first: list[int], title: str) -> Markup:
    quiet = "".join(_path(frame, steps, curve) for i, curve in enumerate(curves) if i not in first)
    parts = [frame.draw("value of the rollout", "scaled squared error")]
    parts.append(
        element("text", title, x=f1(frame.x.end), y=f1(frame.y.end - 10), text_anchor="end", font_weight="600")
    )
    if quiet:
        parts.append(element("path", d=quiet, class_="quiet", opacity="0.6"))
    ends = [_end(frame, curves[i]) for i in first]
    places = spread(ends, frame.y.end, frame.y.start, 12.0)
    for k, i in enumerate(first):
        path = _path(frame, steps, curves[i])
        if path:
            parts.append(element("path", d=path, class_=f"curve s{k} d{k}"))
            parts.append(element("text", LETTERS[k], x=f1(frame.x.end + 5), y=f1(places[k] + 4)))
    return join(*parts)


def _path(frame: Frame, steps: npt.NDArray[np.int64], curve: FloatArray) -> str:
    """Path data; a curve is interrupted where it is not finite."""
    text, down = "", False
    for step, value in zip(steps.tolist(), curve.tolist(), strict=True):
        if not math.isfinite(value):
            down = False
            continue
        text += f"{'L' if down else 'M'}{f1(frame.x(step + 1))} {f1(frame.y(value))}"
        down = True
    return text


def _end(frame: Frame, curve: FloatArray) -> float:
    finite = curve[np.isfinite(curve)]
    return frame.y(float(finite[-1])) if len(finite) else frame.y.end
