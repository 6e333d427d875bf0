"""HTML and SVG as text: every string is escaped unless it is markup of ours already."""

from __future__ import annotations

import html
import re

# Elements without content and without an end tag (HTML living standard, void elements).
VOID = frozenset(("meta",))
# HTML has no way to write most control characters; a lone surrogate has no UTF-8.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """`text` as character data or attribute value; what HTML cannot hold becomes U+FFFD."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(UNWRITABLE.sub("\ufffd", str(text)), quote=True))


def join(*parts: object) -> Markup:
    """Markup of the parts, one after the other; None gives nothing."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """One element; attributes that are None are left out, `class_` is written class and `view_box` viewBox.

    Underscores in other names become hyphens: `aria_label`, `stroke_width`.
    """
    names = {"class_": "class", "for_": "for", "view_box": "viewBox"}
    written = "".join(
        f' {names.get(key, key.replace("_", "-"))}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*content)}</{name}>")
