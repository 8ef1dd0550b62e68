"""Decisions in a drawing: a symbol on the curve, a line from top to bottom, and the key to both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from .elements import FAINT, explain, pixels, room, write

SHAPES = {
    "scale-lr": "M-5,-4 L5,-4 L0,5 Z",
    "set-lr": "M-5,-4 L5,-4 L0,5 Z",
    "release-lr": "M-5,4 L5,4 L0,-5 Z",
    "restore": "M-5,0 A5,5 0 1 1 5,0 A5,5 0 1 1 -5,0 Z",
    "checkpoint": "M-4,-4 H4 V4 H-4 Z",
    "prune": "M-5,-3 L-3,-5 L0,-2 L3,-5 L5,-3 L2,0 L5,3 L3,5 L0,2 L-3,5 L-5,3 L-2,0 Z",
}
OTHER_SHAPE = "M0,-5 L5,0 L0,5 L-5,0 Z"
HUES = {"scale-lr": "#a35200", "set-lr": "#a35200", "release-lr": "#a35200", "restore": "#1a6fb0", "prune": "#c01c28"}
DASHES = {"would": "5 3", "applied": "", "pending": "1 2"}
"""Of the lines. What was refused, expired or failed is grey and dotted; symbols are filled where the decision was applied."""


@dataclass(frozen=True)
class Mark:
    """A decision at a step of the curve that it is about; `value` is the curve's there, NaN where it has none. `label` is
    short, `text` all there is to say."""

    action: str
    status: str
    step: int
    value: float
    label: str
    text: str


def draw_mark(place: Element, mark: Mark, x: float, y: float) -> Element:
    """A symbol at (x, y): filled where the decision was applied. The element, for a line beside it."""
    group = SubElement(place, "g", {"class": f"mark {mark.status}"})
    explain(group, mark.text)
    _symbol(group, mark.action, mark.status, x, y)
    return group


def draw_line(group: Element, mark: Mark, x: float, height: float, free_from: float) -> float:
    """A line at `x`, labelled if there is room: labels reach up to `free_from`. Up to where they reach now."""
    dashes = DASHES.get(mark.status, "1 4")
    shade = _shade(mark.action, mark.status)
    look = {"d": f"M{pixels(x)},0 V{pixels(height)}", "stroke": shade} | ({"stroke-dasharray": dashes} if dashes else {})
    group.insert(1, Element("path", look))  # below the symbol
    if x < free_from:
        return free_from
    write(group, mark.label, x + 4, 12, colour=shade, size=11)
    return x + 10 + 6.2 * len(mark.label)


def draw_key(svg: Element, marks: Iterable[Mark], start: tuple[int, int], end: int) -> int:
    """What the symbols mean that there are, in rows from `start` on that reach to `end`; where the last row stands."""
    left, y = start
    x = float(left)
    for action, status in sorted({(mark.action, mark.status) for mark in marks}):
        name = f"{action}: {status}"
        if x > left and x + room(name) > end:
            x, y = float(left), y + 20
        group = SubElement(svg, "g", {"class": "key"})
        _symbol(group, action, status, x + 6, y)
        write(group, name, x + 18, y + 4)
        x += room(name)
    return y


def _symbol(group: Element, action: str, status: str, x: float, y: float) -> None:
    shade = _shade(action, status)
    look = {"d": SHAPES.get(action, OTHER_SHAPE), "transform": f"translate({pixels(x)} {pixels(y)})", "stroke": shade}
    look["fill"] = shade if status == "applied" else "#ffffff"
    SubElement(group, "path", look)


def _shade(action: str, status: str) -> str:
    return HUES.get(action, FAINT) if status in DASHES else FAINT
