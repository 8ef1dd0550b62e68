"""A run's best so far at fixed places of its step axis, so that runs which log at different steps can be compared.

The step axis is cut into rungs of equal ratio, 32 an octave. A rung is closed by the first point behind it: what was best
until its end is then known for good. The axis needs no total: a run of 10,000 points closes some 300 rungs, one of 140
points about 100 (rungs: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification"; there of ratio 3 or 4).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .events import Goal
from .measures import FEW, one_by_one
from .window import Floats, Ints

OCTAVE = 32
"""Rungs from a step to twice that step."""
_FIRST_STEPS: list[int] = [math.ceil(2.0 ** (rung / OCTAVE)) for rung in range(62 * OCTAVE + 1)]
_BOUNDS: Ints = np.array(_FIRST_STEPS, np.int64)
NONE = -1


def rung_of(step: int) -> int:
    """The rung of a step: floor(32 log2(step)); of a step below 2 it is 0.

    >>> rung_of(-5), rung_of(1), rung_of(2), rung_of(3), rung_of(1000), rung_of(1024)
    (0, 0, 32, 50, 318, 320)
    """
    return max(0, bisect_right(_FIRST_STEPS, step) - 1)


def rungs_of(steps: Ints) -> Ints:
    """`rung_of` each step."""
    rungs: Ints = np.maximum(np.searchsorted(_BOUNDS, steps, side="right") - 1, 0)
    return rungs


def first_step(rung: int) -> int:
    """The first step of a rung that is not empty."""
    return _FIRST_STEPS[min(rung, len(_FIRST_STEPS) - 1)]


class RungMeasure:
    """The best of a series until each closed rung. Columns: closed (the highest rung that the point closed, -1 where it
    closed none), best (what was best before the point, turned so that less is better; +inf while nothing was finite).

    `start` is the rung of the first point (-1 before it), `curve[i]` the best until rung `start + i`.
    """

    @staticmethod
    def key_of(goal: Goal) -> str:
        return f"rungs({goal})"

    def __init__(self, goal: Goal) -> None:
        self.key = self.key_of(goal)
        self.goal: Goal = goal
        self._sign = 1.0 if goal == "min" else -1.0
        self.start = NONE
        self.curve: Floats = np.empty(0)
        self._rung = NONE
        self._best = math.inf

    @property
    def closed(self) -> int:
        """The highest closed rung, -1 before there is one."""
        return self.start + len(self.curve) - 1 if len(self.curve) else NONE

    def _point(self, step: int, value: float) -> tuple[int, float]:
        rung, before = rung_of(step), self._best
        y = self._sign * value
        if math.isfinite(y) and y < self._best:
            self._best = y
        if rung <= self._rung:
            return NONE, before
        if self._rung == NONE:
            self.start = self._rung = rung
            return NONE, before
        self.curve = np.concatenate((self.curve, np.full(rung - self._rung, before)))
        self._rung = rung
        return rung - 1, before

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        n = len(values)
        if n <= FEW:
            return one_by_one(("closed", "best"), self._point, steps, values)
        y = np.where(np.isfinite(values), self._sign * values, np.inf)
        best = np.minimum.accumulate(np.concatenate(([self._best], y)))
        before, self._best = best[:-1], float(best[-1])
        highest = np.maximum.accumulate(np.concatenate(([self._rung], rungs_of(steps))))
        was, rung = highest[:-1], highest[1:]
        entered = rung > was
        closes = entered & (was != NONE)
        if self._rung == NONE:
            self.start = int(rung[0])
        self.curve = np.concatenate((self.curve, np.repeat(before[closes], (rung - was)[closes])))
        self._rung = int(rung[-1])
        return {"closed": np.where(closes, rung - 1, NONE), "best": before}

    def finish(self) -> None:
        """Nothing more comes: the rung of the last point is closed, too."""
        if self._rung != NONE and self.closed < self._rung:
            self.curve = np.append(self.curve, self._best)

    def new_segment(self) -> None:
        """What was reached was reached: a rung that was closed stays closed."""

    def dump(self) -> dict[str, Any]:
        return {"start": self.start, "curve": self.curve.tobytes(), "rung": self._rung, "best": self._best}

    def load(self, state: Mapping[str, Any]) -> None:
        self.start, self._rung, self._best = state["start"], state["rung"], state["best"]
        self.curve = np.frombuffer(state["curve"], np.float64).copy()
