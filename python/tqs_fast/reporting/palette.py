"""The colours of a report page, light and dark, as values that the tests compute contrast ratios of.

Text meets WCAG 2.2 AA (1.4.3: 4.5 to 1), lines and marks 1.4.11 (3 to 1). Colour is never the only sign: curves also
differ in dashes, marks in shape, cells hold their figure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """One colour scheme; every colour is `#rrggbb`.

    Attributes:
        page, panel: backgrounds of the page and of figures and tables.
        text, muted, link: of text on either background.
        line: borders and grid, decoration only.
        quiet: curves that are not singled out, and the axes.
        series: curves and marks that are, in order.
        heat: (background, text) of the heat map's levels, least damage first.
    """

    page: str
    panel: str
    text: str
    muted: str
    link: str
    line: str
    quiet: str
    series: tuple[str, ...]
    heat: tuple[tuple[str, str], ...]


LIGHT = Scheme(
    page="#f6f7f9",
    panel="#ffffff",
    text="#15191e",
    muted="#4a5561",
    link="#0a569c",
    line="#d5dae0",
    quiet="#8793a0",
    series=("#0b62a4", "#b5420f", "#1b7f4b", "#8a3ea8", "#866500", "#b0256b"),
    heat=(
        ("#f1f6fa", "#15191e"),
        ("#d8e6f1", "#15191e"),
        ("#b5d0e5", "#15191e"),
        ("#8cb6d6", "#15191e"),
        ("#639ac4", "#10151a"),
        ("#33689a", "#ffffff"),
        ("#173d69", "#ffffff"),
    ),
)
DARK = Scheme(
    page="#0f1317",
    panel="#171c22",
    text="#e8ecf0",
    muted="#a9b4bf",
    link="#7cbcf5",
    line="#343c46",
    quiet="#75818d",
    series=("#6cb2f0", "#f39a6b", "#6fd19a", "#cf9bf0", "#e0c25a", "#f58fc0"),
    heat=(
        ("#1a232c", "#e8ecf0"),
        ("#1d3347", "#e8ecf0"),
        ("#234763", "#f2f5f8"),
        ("#2a5a82", "#f7f9fb"),
        ("#5e9bcd", "#0b0f13"),
        ("#8fc1ea", "#0b0f13"),
        ("#cbe4f8", "#0b0f13"),
    ),
)
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "5 2", "12 4")


def variables(scheme: Scheme) -> str:
    """The scheme as CSS custom properties."""
    names = ("page", "panel", "text", "muted", "link", "line", "quiet")
    pairs = [(name, getattr(scheme, name)) for name in names]
    pairs += [(f"series{i}", colour) for i, colour in enumerate(scheme.series)]
    for i, (background, text) in enumerate(scheme.heat):
        pairs += [(f"heat{i}", background), (f"heat-text{i}", text)]
    return "".join(f"--{name}:{colour};" for name, colour in pairs)
