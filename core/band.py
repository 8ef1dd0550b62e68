"""Where a series usually is: a robust band, drawn from the recent past, and how long it has been left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .events import Goal
from .measures import FEW, in_a_row, one_by_one
from .window import Floats, Ints

WINDOW = 64
"""Evaluations a band is drawn from; its breakdown point is half of them."""
EVERY = 8
"""Evaluations after which it is drawn anew; the first is drawn after as many, and needs as many finite values."""
SIGMA = 1.4826
"""The median absolute deviation times this estimates the standard deviation of a normal distribution."""

_LAGS = np.arange(WINDOW)


def median_of(ordered: list[float]) -> float:
    """The median of n >= 1 numbers in order."""
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low + (high - low) / 2


def medians(rows: Floats) -> tuple[Floats, Ints]:
    """The median of the numbers of each row (NaN is no number), and how many there are."""
    ordered = np.sort(rows, axis=1)  # NaN last
    counts = (~np.isnan(ordered)).sum(axis=1)
    row = np.arange(len(rows))
    low, high = ordered[row, (counts - 1).clip(min=0) // 2], ordered[row, counts // 2]
    return low + (high - low) / 2, counts


class BandMeasure:
    """A band of `width` robust standard deviations, at least `rise` times |median|, on the worse side of the median
    (Hampel 1974, "The influence curve and its role in robust estimation": median and MAD).

    It is drawn from the finite values of the last 64 evaluations, anew at each 8th evaluation of the segment, so that
    equal points give equal bands in all cuts and a spike hardly moves the band that it is measured with.
    Columns: median, edge (NaN while there is no band), row (points outside the band without a break; one that is not
    finite is outside). A restore starts from nothing: the level after it is another.
    """

    @staticmethod
    def key_of(goal: Goal, width: float, rise: float) -> str:
        return f"band({goal},{width},{rise})"

    def __init__(self, goal: Goal, width: float, rise: float) -> None:
        self.key = self.key_of(goal, width, rise)
        self._sign = 1.0 if goal == "min" else -1.0
        self._width, self._rise = width, rise
        self.new_segment()

    def new_segment(self) -> None:
        self._past: deque[float] = deque([math.nan] * WINDOW, WINDOW)
        self._seen = self._row = 0
        self._median = self._edge = math.nan

    def _point(self, step: int, value: float) -> tuple[float, float, int]:
        y = self._sign * value
        finite = math.isfinite(y)
        if self._seen % EVERY == 0:
            self._median, self._edge = self._draw()
        self._past.append(y if finite else math.nan)
        self._seen += 1
        self._row = 0 if finite and not y > self._edge else self._row + 1
        return self._sign * self._median, self._sign * self._edge, self._row

    def _draw(self) -> tuple[float, float]:
        """The band of the past: its median and edge, or NaN where there is none."""
        known = sorted(y for y in self._past if not math.isnan(y))
        if len(known) < EVERY:
            return math.nan, math.nan
        median = median_of(known)
        spread = median_of(sorted(abs(y - median) for y in known))
        reach = max(self._width * SIGMA * spread, self._rise * abs(median))  # NaN, in front, stays
        return (median, median + reach) if reach > 0 else (math.nan, math.nan)  # zero throughout: no scale

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        n = len(values)
        if n <= FEW:
            return one_by_one(("median", "edge", "row"), self._point, steps, values)
        finite = np.isfinite(values)
        y = self._sign * values
        past = np.concatenate((self._past, np.where(finite, y, np.nan)))
        median, edge = np.full(n, self._median), np.full(n, self._edge)
        first = -self._seen % EVERY
        drawn = np.arange(first, n, EVERY)
        new_median, new_edge = self._draw_each(past[drawn[:, None] + _LAGS])
        which = (np.arange(first, n) - first) // EVERY
        median[first:], edge[first:] = new_median[which], new_edge[which]
        row = in_a_row(~finite | (y > edge), self._row)
        self._past.extend(past[-WINDOW:].tolist())
        self._seen += n
        self._row, self._median, self._edge = int(row[-1]), float(median[-1]), float(edge[-1])
        return {"median": self._sign * median, "edge": self._sign * edge, "row": row}

    def _draw_each(self, rows: Floats) -> tuple[Floats, Floats]:
        """As `_draw`, of each row of a past."""
        with np.errstate(over="ignore", invalid="ignore"):
            median, counts = medians(rows)
            spread = medians(np.abs(rows - median[:, None]))[0]
            reach = np.maximum(self._width * SIGMA * spread, self._rise * np.abs(median))
            edge = median + reach
        known = (counts >= EVERY) & (reach > 0)
        return np.where(known, median, np.nan), np.where(known, edge, np.nan)

    def dump(self) -> dict[str, Any]:
        band = [self._median, self._edge]
        return {"past": list(self._past), "seen": self._seen, "row": self._row, "band": band}

    def load(self, state: Mapping[str, Any]) -> None:
        self._past = deque(state["past"], WINDOW)
        self._seen, self._row = state["seen"], state["row"]
        self._median, self._edge = state["band"]
