"""Where a series usually is: a robust band, drawn from the recent past, and how long it has been left."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .events import Goal
from .measures import FEW, alone, ended, in_a_row, one_by_one
from .window import Floats, Ints

WINDOW = 64
"""Evaluations a band is drawn from; its breakdown point is half of them."""
EVERY = 8
"""Evaluations after which it is drawn anew; the first is drawn after as many, and needs as many finite values."""
SIGMA = 1.4826
"""The median absolute deviation times this estimates the standard deviation of a normal distribution."""
MOST_PAST = 4 * WINDOW
"""So far it grows before what is older is cut off."""


def median_of(ordered: list[float]) -> float:
    """The median of n >= 1 numbers in order."""
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low + (high - low) / 2


def medians(rows: Floats) -> tuple[Floats, Ints]:
    """The median of the numbers of each row (NaN is no number), and how many there are. Sorts the rows: NaN last."""
    rows.sort(axis=1)
    ordered, n = rows, rows.shape[1]
    if not np.isnan(ordered[:, -1]).any():
        low, high = ordered[:, (n - 1) // 2], ordered[:, n // 2]
        return low + (high - low) / 2, np.full(len(rows), n)
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

    __slots__ = (
        "_edge",
        "_median",
        "_past",
        "_rise",
        "_row",
        "_seen",
        "_sign",
        "_width",
        "key",
    )
    names = ("median", "edge", "row")

    @staticmethod
    @cache
    def key_of(goal: Goal, width: float, rise: float) -> str:
        return f"band({goal},{width},{rise})"

    def __init__(self, goal: Goal, width: float, rise: float) -> None:
        self.key = self.key_of(goal, width, rise)
        self._sign = 1.0 if goal == "min" else -1.0
        self._width, self._rise = width, rise
        self.new_segment()

    def new_segment(self) -> None:
        self._past = array("d", [math.nan] * WINDOW)
        self._seen = self._row = 0
        self._median = self._edge = math.nan

    def point(self, step: int, value: float) -> tuple[float, float, int]:
        y = self._sign * value
        finite = math.isfinite(y)
        if self._seen % EVERY == 0:
            self._median, self._edge = self._draw()
        self._past.append(y if finite else math.nan)
        if len(self._past) > MOST_PAST:
            del self._past[:-WINDOW]
        self._seen += 1
        self._row = 0 if finite and not y > self._edge else self._row + 1
        return self._sign * self._median, self._sign * self._edge, self._row

    def _draw(self) -> tuple[float, float]:
        """The band of the past: its median and edge, or NaN where there is none."""
        known = sorted([y for y in self._past[-WINDOW:] if y == y])  # NaN is not
        if len(known) < EVERY:
            return math.nan, math.nan
        median = median_of(known)
        half = (len(known) + 1) // 2
        spread = median_of(sorted([median - y for y in known[:half]] + [y - median for y in known[half:]]))
        reach = max(self._width * SIGMA * spread, self._rise * abs(median))  # NaN, in front, stays
        return (median, median + reach) if reach > 0 else (math.nan, math.nan)  # zero throughout: no scale

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        if len(values) <= FEW:
            return one_by_one(self, steps, values)
        return alone(self, steps, values)

    @classmethod
    def fold_many(cls, many: Sequence[BandMeasure], steps: Ints, values: Floats, ends: Ints) -> Mapping[str, NDArray[Any]]:
        like = many[0]
        odd = ~np.isfinite(values)
        y = values if like._sign == 1.0 else like._sign * values
        before = np.frombuffer(b"".join([one._past[-WINDOW:].tobytes() for one in many])).reshape(len(many), WINDOW)
        past = np.concatenate((before, y), axis=1)
        past[:, WINDOW:][odd] = np.nan
        median, edge = cls._drawn(many, past, ends)
        row = in_a_row(odd | (y > edge), np.array([one._row for one in many]))
        held = (ended(median, ends), ended(edge, ends), ended(row, ends))
        for one, end, taken, *state in zip(many, (ends + 1).tolist(), past, *held, strict=True):
            one._past = array("d", taken[end : end + WINDOW].tobytes())
            one._seen += end
            one._median, one._edge, one._row = state
        if y is not values:
            median, edge = like._sign * median, like._sign * edge
        return {"median": median, "edge": edge, "row": row}

    @staticmethod
    def _drawn(many: Sequence[BandMeasure], past: Floats, ends: Ints) -> tuple[Floats, Floats]:
        """[m, n] each: median and edge of the bands that hold at the points, which stand in `past` [m, 64 + n]."""
        n = past.shape[1] - WINDOW
        first = (-np.array([one._seen for one in many]) % EVERY)[:, None]
        drawn = first + np.arange(0, n, EVERY)
        rows, columns = (drawn <= ends[:, None]).nonzero()
        held = np.array([(one._median, one._edge) for one in many])
        if not rows.size:
            return np.repeat(held[:, :1], n, axis=1), np.repeat(held[:, 1:], n, axis=1)
        bands = np.repeat(held[:, :, None], drawn.shape[1] + 1, axis=2)
        bands[rows, :, columns + 1] = many[0]._draw_each(sliding_window_view(past, WINDOW, axis=1)[rows, drawn[rows, columns]])
        each = np.repeat(bands, EVERY, axis=2)
        if (first == first[0]).all():
            held = each[:, :, EVERY - first[0, 0] :][:, :, :n]
        else:
            held = np.take_along_axis(each, (np.arange(n) - first + EVERY)[:, None], axis=2)
        return held[:, 0], held[:, 1]

    def _draw_each(self, rows: Floats) -> Floats:
        """[k, 2]: as `_draw`, of each row of a past, which is lost."""
        with np.errstate(over="ignore", invalid="ignore"):
            median, counts = medians(rows)
            rows -= median[:, None]
            spread = medians(np.abs(rows, out=rows))[0]
            reach = np.maximum(self._width * SIGMA * spread, self._rise * np.abs(median))
            bands = np.stack((median, median + reach), axis=1)
        bands[~((counts >= EVERY) & (reach > 0))] = np.nan
        return bands

    def dump(self) -> dict[str, Any]:
        band = [self._median, self._edge]
        return {"past": self._past[-WINDOW:].tolist(), "seen": self._seen, "row": self._row, "band": band}

    def load(self, state: Mapping[str, Any]) -> None:
        self._past = array("d", state["past"])
        self._seen, self._row = state["seen"], state["row"]
        self._median, self._edge = state["band"]
