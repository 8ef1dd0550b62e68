"""Fewer points of a curve: in each column of pixels the least and the greatest, so that no spike is lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Line = tuple[Floats, Floats]
POINTS_A_PASS = 8
"""A curve that goes back in its steps so often that a pass would have fewer points than this is drawn by step."""
VISIBLE_GAP = 1.5
"""Columns: what is missing over less than that cannot be seen."""


def thin(x: Floats, y: Floats, columns: int, most: int) -> list[Line]:
    """The lines to draw for a curve whose points come in the order in which they were logged, at most `most` points (>= 8)
    in all. `x` is in [0, 1], of which a column of pixels is 1 / `columns`. A line ends where `y` is not finite over a gap
    that can be seen, and where x goes back; one point alone is a line of one.

    >>> [line[1].tolist() for line in thin(np.array([0, 0.1, 0.2, 0.3, 1]), np.array([5, 1, np.nan, 2, 3]), 100, 10)]
    [[5.0, 1.0], [2.0, 3.0]]
    """
    if int((np.diff(x) < 0).sum()) > most // POINTS_A_PASS - 1:
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    finite = np.isfinite(y)
    missing = np.cumsum(~finite)[finite]
    x, y = x[finite], y[finite]
    if not len(x):
        return []
    back = np.diff(x, prepend=x[0]) < 0
    chosen, wide = np.arange(len(x), dtype=np.int64), min(columns, most // 2 - 1)
    while len(chosen) > most:
        chosen, wide = _chosen(x, y, back, wide), max(1, wide // 2)
    gap = (np.diff(missing, prepend=missing[0]) > 0) & (np.diff(x, prepend=x[0]) * columns > VISIBLE_GAP)
    line = np.cumsum(back | gap, dtype=np.int64)[chosen]
    return [(x[part], y[part]) for part in _parts(chosen, line)]


def _chosen(x: Floats, y: Floats, back: NDArray[np.bool_], columns: int) -> Indices:
    """Rising indices: the first and the last point, and of each column that a pass crosses the least and the greatest."""
    column = np.minimum((x * columns).astype(np.int64), columns - 1)
    starts = np.flatnonzero((np.diff(column, prepend=-1) != 0) | back)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(x)))
    ends = [np.array([0, len(x) - 1])]
    for extreme in (np.minimum, np.maximum):
        places = np.where(y == extreme.reduceat(y, starts)[group], np.arange(len(x)), len(x))
        ends.append(np.minimum.reduceat(places, starts))
    return np.unique(np.concatenate(ends))


def _parts(chosen: Indices, line: Indices) -> Iterator[Indices]:
    yield from np.split(chosen, np.flatnonzero(np.diff(line)) + 1)
