"""A figure as SVG: panels one below the other over one axis of steps, each with its curves and the decisions on them.

Plain elements with presentation attributes, no script, no style sheet, no font but what is there: the same in a browser, in a
viewer and in a page. What is pointed at explains itself by its <title>.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from numpy.typing import NDArray

from .axis import Axis
from .elements import FAINT, GRID, explain, pixels, room, short, write
from .marks import Mark, draw_key, draw_line, draw_mark
from .thinning import Line, thin

WIDTH, LEFT, RIGHT = 960, 76, 24
PANEL, GAP, TOP, ROW = 220, 52, 34, 20
PLOT = WIDTH - LEFT - RIGHT
"""All in pixels; of a panel the height of its plot."""
MAX_POINTS, LEAST_POINTS = 2_000, 16
"""Of one curve."""
MAX_DRAWN = 400_000
"""Points of a figure, in some 12 bytes each; where there are so many curves, each gets fewer."""
MAX_NAMES = 24
"""Curves that the legend names; all of them say their name when they are pointed at."""
COLOURS = ("#0b6bb8", "#d1610f", "#2a8f43", "#b9322f", "#7a54b3", "#86614f", "#c75a9e", "#5f6a72", "#8f8a12", "#0f9aa8")


@dataclass(frozen=True)
class Curve:
    """`steps` and `values` of equal length, in the order in which they were logged. `number` chooses the colour; `faded`: an
    attempt that another one followed."""

    name: str
    number: int
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    faded: bool = False


@dataclass(frozen=True)
class Panel:
    """A series: its curves, and the decisions on them."""

    name: str
    curves: Sequence[Curve]
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Figure:
    """`lines`: decisions also as lines from top to bottom, with their labels. `log`: logarithmic axes of values; what is not
    above 0 is missing then."""

    title: str
    panels: Sequence[Panel]
    lines: bool = True
    log: bool = False
    notes: Sequence[str] = field(default=())


def draw(figure: Figure) -> Element:
    """The figure as an <svg> element."""
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": "system-ui, sans-serif", "font-size": "12"})
    explain(svg, figure.title)
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    write(svg, figure.title, LEFT, 22, size=15, weight="600")
    y = TOP
    for row in _names(figure):
        _legend(svg, row, y)
        y += ROW
    across = _steps_axis(figure)
    curves = sum(len(panel.curves) for panel in figure.panels)
    most = min(MAX_POINTS, max(LEAST_POINTS, MAX_DRAWN // max(1, curves)))
    for panel in figure.panels:
        place = SubElement(svg, "g", {"class": "panel", "transform": f"translate({LEFT} {y + ROW})"})
        _panel(place, panel, figure, across, most)
        y += PANEL + GAP
    y = draw_key(svg, (mark for panel in figure.panels for mark in panel.marks), (LEFT, y + 12), WIDTH - RIGHT)
    for note in figure.notes:
        y += ROW
        write(svg, note, LEFT, y, colour=FAINT)
    for name, text in (("width", f"{WIDTH}"), ("height", f"{y + ROW}"), ("viewBox", f"0 0 {WIDTH} {y + ROW}")):
        svg.set(name, text)
    return svg


def _steps_axis(figure: Figure) -> Axis:
    steps = [curve.steps for panel in figure.panels for curve in panel.curves if len(curve.steps)]
    low, high = (min(map(np.min, steps)), max(map(np.max, steps))) if steps else (0, 1)
    return Axis.over(float(low), float(high), padding=0.01)


def svg_text(figure: Figure) -> str:
    """The figure as a file of its own."""
    return tostring(draw(figure), encoding="unicode") + "\n"


def _panel(place: Element, panel: Panel, figure: Figure, across: Axis, most: int) -> None:
    up = _values_axis(panel.curves, figure.log)
    write(place, panel.name, 0, -7, weight="600")
    SubElement(place, "rect", {"width": f"{PLOT}", "height": f"{PANEL}", "fill": "none", "stroke": GRID})
    for value, label in across.ticks(8):
        _grid(place, f"M{pixels(across.place(value) * PLOT)},0 V{PANEL}")
        write(place, label, across.place(value) * PLOT, PANEL + 16, anchor="middle", colour=FAINT)
    write(place, "step", PLOT, PANEL + 30, anchor="end", colour=FAINT)
    if up is None:
        write(place, "no value above 0" if figure.log else "no finite value", PLOT / 2, PANEL / 2, anchor="middle", colour=FAINT)
    else:
        for value, label in up.ticks():
            _grid(place, f"M0,{pixels((1 - up.place(value)) * PANEL)} H{PLOT}")
            write(place, label, -8, (1 - up.place(value)) * PANEL + 4, anchor="end", colour=FAINT)
        for curve in panel.curves:
            _curve(place, curve, across, up, most)
    free_from = 0.0
    for mark in sorted(panel.marks, key=lambda one: one.step):
        x, height = across.place(float(mark.step)) * PLOT, up.place(mark.value) if up else np.nan
        group = draw_mark(place, mark, x, (1 - height) * PANEL if height == height else float(PANEL))
        if figure.lines:
            free_from = draw_line(group, mark, x, PANEL, free_from)


def _values_axis(curves: Iterable[Curve], log: bool) -> Axis | None:
    least, most = np.inf, -np.inf
    for curve in curves:
        shown = curve.values[np.isfinite(curve.values) & ((curve.values > 0) if log else True)]
        if len(shown):
            least, most = min(least, float(shown.min())), max(most, float(shown.max()))
    return Axis.over(least, most, log=log) if least <= most else None


def _curve(place: Element, curve: Curve, across: Axis, up: Axis, most: int) -> None:
    lines = thin(across.places(curve.steps.astype(np.float64)), up.places(curve.values), PLOT, most)
    group = SubElement(place, "g", {"class": "curve"})
    explain(group, curve.name)
    look = {"fill": "none", "stroke": colour(curve.number), "stroke-width": "1.5", "stroke-linejoin": "round"}
    if curve.faded:
        look["stroke-opacity"] = "0.45"
    SubElement(group, "path", {"d": " ".join(map(_path, lines)), "stroke-linecap": "round", **look})


def _path(line: Line) -> str:
    """One line in pixels; one point alone is one of no length, which its round ends make a dot."""
    x, y = line[0] * PLOT, (1 - line[1]) * PANEL
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    return "M" + " ".join(points) if len(points) > 1 else f"M{points[0]} h0"


def _names(figure: Figure) -> list[list[tuple[str, int]]]:
    """The curves' names in rows that fit, each once; none where there is only one."""
    known: dict[str, int] = {}
    for panel in figure.panels:
        for curve in panel.curves:
            known.setdefault(short(curve.name), curve.number)
    if len(known) < 2:
        return []
    named = list(known.items())[:MAX_NAMES]
    if len(known) > MAX_NAMES:
        named.append((f"and {len(known) - MAX_NAMES} more", -1))
    rows: list[list[tuple[str, int]]] = [[]]
    for one in named:
        if rows[-1] and sum(room(name) for name, _ in (*rows[-1], one)) > PLOT:
            rows.append([])
        rows[-1].append(one)
    return rows


def _legend(svg: Element, row: Sequence[tuple[str, int]], y: float) -> None:
    x = float(LEFT)
    for name, number in row:
        if number >= 0:
            SubElement(svg, "path", {"d": f"M{pixels(x)},{y + 8} h16", "stroke": colour(number), "stroke-width": "3"})
        write(svg, name, x + 22, y + 12)
        x += room(name)


def colour(number: int) -> str:
    """A colour a curve; the first ten are told apart best.

    >>> colour(0), colour(10)
    ('#0b6bb8', 'hsl(297, 60%, 42%)')
    """
    return COLOURS[number] if number < len(COLOURS) else f"hsl({int(number * 137.508 + 2) % 360}, 60%, 42%)"


def _grid(place: Element, path: str) -> None:
    SubElement(place, "path", {"class": "grid", "d": path, "stroke": GRID})
