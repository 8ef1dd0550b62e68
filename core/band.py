"""Where a series usually is: a robust band, drawn from the recent past, and how long it has been left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .events import Goal
from .measures import in_a_row
from .window import Floats, Ints

WINDOW = 64
"""Evaluations a band is drawn from; its breakdown point is half of them."""
EVERY = 8
"""Evaluations after which it is drawn anew; the first is drawn after as many, and needs as many finite values."""
SIGMA = 1.4826
"""The median absolute deviation times this estimates the standard deviation of a normal distribution."""


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
        self._past: Floats = np.full(WINDOW, np.nan)
        self._seen = self._row = 0
        self._median = self._edge = np.nan

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        n = len(values)
        finite = np.isfinite(values)
        y = self._sign * values
        past = np.concatenate((self._past, np.where(finite, y, np.nan)))
        # Before the points at `drawn` the band is drawn anew; -1 stands for the band that holds already.
        first = -self._seen % EVERY
        drawn = np.arange(first, n, EVERY)
        median, edge = np.full(n, self._median), np.full(n, self._edge)
        if len(drawn):
            new_median, new_edge = self._draw(sliding_window_view(past, WINDOW)[first:n:EVERY])
            which = (np.arange(first, n) - first) // EVERY
            median[first:], edge[first:] = new_median[which], new_edge[which]
        row = in_a_row(~finite | (y > edge), self._row)
        self._past, self._seen = past[-WINDOW:], self._seen + n
        self._row, self._median, self._edge = int(row[-1]), float(median[-1]), float(edge[-1])
        return {"median": self._sign * median, "edge": self._sign * edge, "row": row}

    def _draw(self, rows: Floats) -> tuple[Floats, Floats]:
        with np.errstate(over="ignore", invalid="ignore"):
            median, counts = medians(rows)
            spread = medians(np.abs(rows - median[:, None]))[0]
            reach = np.maximum(self._width * SIGMA * spread, self._rise * np.abs(median))
            edge = median + reach
        known = (counts >= EVERY) & (reach > 0)  # a series that is zero throughout has no scale
        return np.where(known, median, np.nan), np.where(known, edge, np.nan)

    def dump(self) -> dict[str, Any]:
        band = [self._median, self._edge]
        return {"past": self._past.tobytes(), "seen": self._seen, "row": self._row, "band": band}

    def load(self, state: Mapping[str, Any]) -> None:
        self._past = np.frombuffer(state["past"], np.float64).copy()
        self._seen, self._row = state["seen"], state["row"]
        self._median, self._edge = state["band"]
