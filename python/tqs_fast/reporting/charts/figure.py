"""One figure: a drawing with its title and description in words, a key and a caption."""

from __future__ import annotations

from tqs_fast.reporting.markup import Markup, element

WIDTH = 720.0


def figure(
    name: str,
    drawing: Markup,
    *,
    height: float,
    title: str,
    description: str,
    caption: str,
    key: Markup | None = None,
) -> Markup:
    """A `<figure>`; `name` makes its ids, `drawing` is in user units of WIDTH x `height`.

    A narrow screen scrolls the drawing, with the keyboard too, rather than shrinking its text.
    """
    svg = element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-description"),
        drawing,
        id=f"{name}-chart",
        view_box=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-description",
    )
    wide = element("div", svg, class_="wide", role="region", aria_label=f"chart: {title}", tabindex="0")
    return element("figure", wide, key, element("figcaption", caption))
