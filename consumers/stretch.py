"""Points gathered between two cuts, series by series, so that many small chunks of many series are folded at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.block import Points
from ..core.events import Series
from ..core.window import Ints

Key = tuple[str, str, str]
"""(attempt, series, source)"""
_Chunk = tuple[Sequence[int], Series, float, int]
"""Positions, points, when it was appended, as which record."""
FEW_LONE = 48
"""So many series with one point each are cheaper taken point by point than as arrays."""


class Lone(NamedTuple):
    """The one point of a series."""

    key: Key
    position: int
    step: int
    value: float
    time: float
    appended: float
    order: int


class Gathered(NamedTuple):
    """What was gathered of `series`, in the order in which each first came: few `lone` points, and the points of S keys, one
    key's after the other's: those of key i are [starts[i], starts[i + 1])."""

    series: Collection[Key]
    lone: Sequence[Lone]
    keys: Sequence[Key]
    starts: Sequence[int]
    points: Points | None
    """None where all are lone."""


class Stretch:
    """Chunks that are kept until they are taken."""

    def __init__(self) -> None:
        self._parts: dict[Key, list[_Chunk]] = {}
        self.points = 0
        """So many are kept."""

    def __len__(self) -> int:
        """Of so many series."""
        return len(self._parts)

    def add(self, key: Key, positions: Sequence[int], points: Series, appended: float, order: int) -> None:
        """Adds the points of one chunk (n >= 1), appended to the log at one time as the `order`-th record."""
        self.points += len(positions)
        parts = self._parts.get(key)
        if parts is None:
            self._parts[key] = [(positions, points, appended, order)]
        else:
            parts.append((positions, points, appended, order))

    def take(self) -> Gathered:
        """All that was gathered; afterwards it is empty."""
        series, self._parts, self.points = self._parts, {}, 0
        alone = {key for key, chunks in series.items() if len(chunks) == 1 and len(chunks[0][0]) == 1}
        if len(alone) > FEW_LONE or len({key[:2] for key in series}) < len(series):  # what comes of two sources is taken in order
            alone.clear()
        lone = [_lone(key, *chunks[0]) for key, chunks in series.items() if key in alone]
        parts = {key: chunks for key, chunks in series.items() if key not in alone} if alone else series
        return Gathered(series, lone, list(parts), *_columns(parts.values()))


def _columns(parts: Collection[Sequence[_Chunk]]) -> tuple[Sequence[int], Points | None]:
    if not parts:
        return [0], None
    positions: list[Sequence[int]] = []
    steps: list[int] = []
    values: list[Any] = []
    times: list[float] = []
    starts, sizes, whens, orders = [0], [], [], []
    for chunks in parts:
        for at, points, appended, order in chunks:
            positions.append(at)
            steps += points.steps
            values += points.values
            times += points.times
            sizes.append(len(at))
            whens.append(appended)
            orders.append(order)
        starts.append(len(steps))
    return starts, Points(
        _joined(positions, sizes, len(steps)),
        np.array(steps, np.int64),
        np.array(values, np.float64),
        np.array(times, np.float64),
        np.repeat(np.array(whens), sizes),
        np.repeat(np.array(orders), sizes),
    )


def _lone(key: Key, positions: Sequence[int], points: Series, appended: float, order: int) -> Lone:
    value = points.values[0]
    return Lone(key, positions[0], points.steps[0], math.nan if value is None else float(value), points.times[0], appended, order)


def _joined(positions: list[Sequence[int]], sizes: list[int], n: int) -> Ints:
    if not all(isinstance(one, range) for one in positions):
        return np.array([at for one in positions for at in one], np.int64)
    lengths: Ints = np.array(sizes, np.int64)
    firsts: Ints = np.array([one[0] for one in positions], np.int64) - (np.cumsum(lengths) - lengths)
    joined: Ints = np.repeat(firsts, lengths) + np.arange(n)
    return joined
