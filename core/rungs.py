"""A run's best so far at fixed places of its step axis, so that runs which log at different steps can be compared.

The step axis is cut into rungs of equal ratio, 32 an octave. A rung is closed by the first point behind it: what was best
until its end is then known for good. The axis needs no total: a run of 10,000 points closes some 300 rungs, one of 140
points about 100 (rungs: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification"; there of ratio 3 or 4).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .events import Goal
from .measures import FEW, alone, ended, one_by_one
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

    __slots__ = (
        "_best",
        "_curve",
        "_length",
        "_rung",
        "_sign",
        "goal",
        "key",
        "start",
    )
    names = ("closed", "best")

    @staticmethod
    def key_of(goal: Goal) -> str:
        return f"rungs({goal})"

    def __init__(self, goal: Goal) -> None:
        self.key = self.key_of(goal)
        self.goal: Goal = goal
        self._sign = 1.0 if goal == "min" else -1.0
        self.start = NONE
        self._curve: Floats = np.empty(OCTAVE)
        self._length = 0
        self._rung = NONE
        self._best = math.inf

    @property
    def closed(self) -> int:
        """The highest closed rung, -1 before there is one."""
        return self.start + self._length - 1 if self._length else NONE

    @property
    def curve(self) -> Floats:
        """The best until each closed rung, from `start` on."""
        return self._curve[: self._length]

    def _close(self, best: float | Floats, rungs: int) -> None:
        """So many more rungs are closed."""
        end = self._length + rungs
        if end > len(self._curve):
            self._curve = np.concatenate((self.curve, np.empty(end)))
        self._curve[self._length : end] = best
        self._length = end

    def point(self, step: int, value: float) -> tuple[int, float]:
        rung, before = rung_of(step), self._best
        y = self._sign * value + 0.0  # -0.0 is no other best than 0.0, however the points are cut
        if math.isfinite(y) and y < self._best:
            self._best = y
        if rung <= self._rung:
            return NONE, before
        if self._rung == NONE:
            self.start = self._rung = rung
            return NONE, before
        self._close(before, rung - self._rung)
        self._rung = rung
        return rung - 1, before

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        if len(values) <= FEW:
            return one_by_one(self, steps, values)
        return alone(self, steps, values)

    @classmethod
    def fold_many(cls, many: Sequence[RungMeasure], steps: Ints, values: Floats, ends: Ints) -> Mapping[str, NDArray[Any]]:
        best = np.empty((len(many), values.shape[1] + 1))
        best[:, 0] = [one._best for one in many]
        np.multiply(values, many[0]._sign, out=best[:, 1:])
        best += 0.0
        best[:, 1:][~np.isfinite(values)] = np.inf
        np.minimum.accumulate(best, axis=1, out=best)
        closed = np.full(values.shape, NONE)
        rung = np.array([one._rung for one in many])
        following = _BOUNDS[np.minimum(rung + 1, len(_BOUNDS) - 1)]
        goes = ((steps[np.arange(len(ends)), ends] >= following) | (rung == NONE)).nonzero()[0]
        if goes.size:
            closed[goes] = cls._entered([many[i] for i in goes.tolist()], steps[goes], best[goes, :-1], rung[goes])
        for one, reached in zip(many, ended(best, ends + 1), strict=True):
            one._best = reached
        return {"closed": closed, "best": best[:, :-1]}

    @staticmethod
    def _entered(many: Sequence[RungMeasure], steps: Ints, before: Floats, rung: Ints) -> Ints:
        """The closed rungs, of measures whose points enter others; what is repeated behind the last point closes none."""
        highest = np.maximum.accumulate(np.concatenate((rung[:, None], rungs_of(steps)), axis=1), axis=1)
        was, now = highest[:, :-1], highest[:, 1:]
        closes = (now > was) & (was != NONE)
        rungs = np.where(closes, now - was, 0)
        curves, ends = np.repeat(before[closes], rungs[closes]), np.cumsum(rungs.sum(axis=1)).tolist()
        begin = 0
        for one, first, last, end in zip(many, now[:, 0].tolist(), now[:, -1].tolist(), ends, strict=True):
            one._rung = last
            if one.start == NONE:
                one.start = first
            if end > begin:
                one._close(curves[begin:end], end - begin)
            begin = end
        return np.where(closes, now - 1, NONE)

    def finish(self) -> None:
        """Nothing more comes: the rung of the last point is closed, too."""
        if self._rung != NONE and self.closed < self._rung:
            self._close(self._best, 1)

    def new_segment(self) -> None:
        """What was reached was reached: a rung that was closed stays closed."""

    def dump(self) -> dict[str, Any]:
        return {"start": self.start, "curve": self.curve.tobytes(), "rung": self._rung, "best": self._best}

    def load(self, state: Mapping[str, Any]) -> None:
        self.start, self._rung, self._best = state["start"], state["rung"], state["best"]
        self._curve = np.frombuffer(state["curve"], np.float64).copy()
        self._length = len(self._curve)
