"""What every part of a drawing is made of: texts that XML can hold, numbers in pixels."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement

INK, FAINT, GRID = "#1f2328", "#6a737d", "#e6e8eb"
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def explain(element: Element, text: str) -> None:
    """What is said when the element is pointed at."""
    SubElement(element, "title").text = clean(text)


def write(
    parent: Element, text: str, x: float, y: float, *, size: int = 12, weight: str = "", anchor: str = "", colour: str = INK
) -> None:
    """A line of text with its base at (x, y)."""
    look = {"x": pixels(x), "y": pixels(y), "fill": colour}
    look |= {} if size == 12 else {"font-size": str(size)}
    look |= {"font-weight": weight} if weight else {}
    look |= {"text-anchor": anchor} if anchor else {}
    SubElement(parent, "text", look).text = clean(text)


def pixels(value: float) -> str:
    """Pixels, to a tenth."""
    return f"{value:.1f}"


def room(text: str) -> float:
    """About how wide a text of a legend is with its sign."""
    return 34 + 6.6 * len(text)


def short(name: str, most: int = 40) -> str:
    """A name that fits into a legend.

    >>> short("x" * 50, 10)
    'xxxx…xxxxx'
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[half + 1 - most :]}"


def clean(text: str) -> str:
    """The text without what XML cannot hold.

    >>> clean("a\\x00b")
    'a\ufffdb'
    """
    return _UNFIT.sub("\ufffd", text)
