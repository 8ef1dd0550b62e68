"""Running figures of one series: what policies need to remember, folded over columns of points.

Each is exact however the points are cut into chunks, and bounded. Inside, y is the value turned so that less is better.
A live job sends a point or two at a time, where a dozen numpy calls cost ten times the arithmetic: the measures take
few points one by one (`point`, which reads as the definition) and many as columns, with equal results.
After a restore (`new_segment`) a best stays, for it was reached; counts that lead to a verdict start again from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .best import improves
from .events import Goal
from .window import Floats, FoldsMany, FoldsPoint, Ints

Mask = NDArray[np.bool_]
Threshold = Literal["rel", "abs"]


FEW = 12
"""Up to so many points are taken one by one."""


def one_by_one(measure: FoldsPoint, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
    """The columns of a measure that takes each point in by itself."""
    rows = [measure.point(step, value) for step, value in zip(steps.tolist(), values.tolist(), strict=True)]
    return {name: np.array(column) for name, column in zip(measure.names, zip(*rows, strict=True), strict=True)}


def alone(measure: FoldsMany, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
    """The columns of a measure that folds many, for one series."""
    columns = measure.fold_many([measure], steps[None], values[None], np.array([len(values) - 1]))
    return {name: column[0] for name, column in columns.items()}


def ended(columns: NDArray[Any], ends: Ints) -> list[Any]:
    """What stands at the end of each row."""
    found: list[Any] = columns[np.arange(len(ends)), ends].tolist()
    return found


def turned(values: Floats, goal: Goal) -> Floats:
    """The values so that less is better, with +inf for what is not a number."""
    y = values if goal == "min" else -values
    return np.where(np.isnan(y), np.inf, y)


def in_a_row(mask: Mask, before: int | Ints) -> Ints:
    """For each point (last axis) how many points up to it were True without a break; `before` of them came just before the
    first, in each row."""
    if not mask.any():
        return np.zeros(mask.shape, np.int64)
    at = np.arange(mask.shape[-1])
    return at - np.maximum.accumulate(np.where(mask, -1 - np.asarray(before)[..., None], at), axis=-1)


def better(y: Floats, best: float, bar: Callable[[float], float], also: Mask | None = None) -> list[int]:
    """The points at which y < bar(best so far); such a point becomes the best. `bar` may not rise above the best, but
    where `also` names each point at which it could: then only those and new minima are looked at one by one."""
    candidates = y < np.minimum.accumulate(np.concatenate(([best], y[:-1])))
    if also is not None:
        candidates |= also
    taken = []
    at = candidates.nonzero()[0]
    for i, value in zip(at.tolist(), y[at].tolist(), strict=True):
        if value < bar(best):
            best = value
            taken.append(i)
    return taken


def latest(at: list[int], n: int) -> Ints:
    """For each of n points the last of the rising indices `at` not behind it, else -1."""
    last = np.full(n, -1)
    last[at] = at
    return np.maximum.accumulate(last)


class BestMeasure:
    """The best value by the comparison of core/best.py. Columns: best (NaN while there is none), best_step (-1),
    since_best: evaluations since the best or the last restore; one that is no number counts as one that is no better."""

    __slots__ = (
        "_delta",
        "_goal",
        "_sign",
        "_since",
        "_step",
        "_y",
        "key",
    )
    names = ("best", "best_step", "since_best")

    @staticmethod
    def key_of(goal: Goal, min_delta: float = 0.0) -> str:
        return f"best({goal},{min_delta})"

    def __init__(self, goal: Goal, min_delta: float = 0.0) -> None:
        self.key = self.key_of(goal, min_delta)
        self._goal: Goal = goal
        self._sign = 1.0 if goal == "min" else -1.0
        self._delta = min_delta
        self._y, self._step, self._since = math.inf, -1, 0

    def point(self, step: int, value: float) -> tuple[float, int, int]:
        best = None if self._y == math.inf else self._sign * self._y
        if improves(value, best, self._goal, self._delta):
            best, self._y, self._step, self._since = value, self._sign * value, step, 0
        else:
            self._since += 1
        return math.nan if best is None else best, self._step, self._since

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        n = len(values)
        if n <= FEW:
            return one_by_one(self, steps, values)
        y = np.where(np.isfinite(values), self._sign * values, np.inf)
        at = better(y, self._y, lambda best: best - self._delta)
        since = np.arange(self._since + 1, self._since + 1 + n)
        best, best_step = np.full(n, self._y), np.full(n, self._step)
        if at:
            last = latest(at, n)
            after = slice(at[0], None)
            best[after], best_step[after] = y[last[after]], steps[last[after]]
            since[after] = np.arange(at[0], n) - last[after]
        self._y, self._step, self._since = float(best[-1]), int(best_step[-1]), int(since[-1])
        return {"best": np.where(np.isinf(best), np.nan, self._sign * best), "best_step": best_step, "since_best": since}

    def new_segment(self) -> None:
        self._since = 0

    def dump(self) -> dict[str, Any]:
        return {"y": self._y, "step": self._step, "since": self._since}

    def load(self, state: Mapping[str, Any]) -> None:
        self._y, self._step, self._since = state["y"], state["step"], state["since"]


class PlateauMeasure:
    """The bookkeeping of torch.optim.lr_scheduler.ReduceLROnPlateau. Columns: best (infinite while there is none), bad
    (its num_bad_epochs), fires (True where it would reduce). A restore ends a cooldown and the count of bad evaluations."""

    __slots__ = (
        "_bad",
        "_cooldown",
        "_cooling",
        "_goal",
        "_patience",
        "_relative",
        "_scale",
        "_threshold",
        "_y",
        "key",
    )
    names = ("best", "bad", "fires")

    @staticmethod
    def key_of(goal: Goal, threshold: float, threshold_mode: Threshold, patience: int, cooldown: int) -> str:
        return f"plateau({goal},{threshold},{threshold_mode},{patience},{cooldown})"

    def __init__(self, goal: Goal, threshold: float, threshold_mode: Threshold, patience: int, cooldown: int) -> None:
        if threshold_mode == "rel" and not 0 <= threshold < 1:
            raise ValueError(f"threshold: {threshold} is not in [0, 1), which a relative one must be")
        self.key = self.key_of(goal, threshold, threshold_mode, patience, cooldown)
        self._goal: Goal = goal
        self._relative = threshold_mode == "rel"
        self._threshold = threshold
        self._scale = 1.0 - threshold if goal == "min" else threshold + 1.0
        self._patience, self._cooldown = patience, cooldown
        self._y, self._bad, self._cooling = math.inf, 0, 0

    def _bar(self, best: float) -> float:
        return best * self._scale if self._relative else best - self._threshold

    def point(self, step: int, value: float) -> tuple[float, int, bool]:
        y = value if self._goal == "min" else -value
        if y < self._bar(self._y):
            self._y, self._bad = y, 0
        else:
            self._bad += 1
        if self._cooling:
            self._bad, self._cooling = 0, self._cooling - 1
        fires = self._bad > self._patience
        if fires:
            self._bad, self._cooling = 0, self._cooldown
        return self._y if self._goal == "min" else -self._y, self._bad, fires

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        n = len(values)
        if n <= FEW:
            return one_by_one(self, steps, values)
        y = turned(values, self._goal)
        # Relative to a value below zero, torch's bar lies on the worse side of the best: any such point can pass it.
        at = better(y, self._y, self._bar, values < 0 if self._relative else None)
        start = self._cooling - 1 if self._cooling else -1 - self._bad
        fires = self._fires(at, start, n)
        # The last point at which the count of bad ones stood at zero: it stands there to the end of a cooldown.
        zero = np.full(n, start)
        zero[at] = at
        zero[fires] = np.asarray(fires, np.int64) + self._cooldown
        bad = (np.arange(n) - np.maximum.accumulate(zero)).clip(min=0)
        mask = np.zeros(n, np.bool_)
        mask[fires] = True
        last = latest(at, n)
        best = np.where(last < 0, self._y, y[last])
        end = fires[-1] + self._cooldown if fires else self._cooling - 1
        self._y, self._bad, self._cooling = float(best[-1]), int(bad[-1]), max(0, end - n + 1)
        return {"best": best if self._goal == "min" else -best, "bad": bad, "fires": mask}

    def _fires(self, at: list[int], start: int, n: int) -> list[int]:
        """Where the bad evaluations in a row exceed the patience; between two better points every `period`-th does."""
        fires: list[int] = []
        period = self._patience + 1 + self._cooldown
        for end in [*at, n]:
            row = range(start + self._patience + 1, end, period)
            if row:
                fires.extend(row)
                start = row[-1] + self._cooldown
            start = max(start, end)
        return fires

    def new_segment(self) -> None:
        self._bad = self._cooling = 0

    def dump(self) -> dict[str, Any]:
        return {"y": self._y, "bad": self._bad, "cooling": self._cooling}

    def load(self, state: Mapping[str, Any]) -> None:
        self._y, self._bad, self._cooling = state["y"], state["bad"], state["cooling"]


class ImprovementMeasure:
    """The best now and `window` evaluations ago. Columns: best, ago (NaN while there is none, or while fewer than
    `window` evaluations came before since the start or the last restore)."""

    names = ("best", "ago")

    @staticmethod
    def key_of(goal: Goal, window: int) -> str:
        return f"improvement({goal},{window})"

    def __init__(self, goal: Goal, window: int) -> None:
        self.key = self.key_of(goal, window)
        self._sign = 1.0 if goal == "min" else -1.0
        self._window = window
        self._y = np.inf
        self._past: Floats = np.full(window, np.nan)

    def point(self, step: int, value: float) -> tuple[float, float]:
        y = self._sign * value + 0.0  # -0.0 is no other best than 0.0, however the points are cut
        if math.isfinite(y) and y < self._y:
            self._y = y
        shown = math.nan if math.isinf(self._y) else self._y
        ago = float(self._past[0])
        self._past = np.append(self._past[1:], shown)
        return self._sign * shown, self._sign * ago

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        y = np.where(np.isfinite(values), self._sign * values + 0.0, np.inf)
        y[0] = min(y[0], self._y)
        best = np.minimum.accumulate(y)
        self._y = float(best[-1])
        shown = np.where(np.isinf(best), np.nan, best)
        past = np.concatenate((self._past, shown))
        self._past = past[-self._window :]
        return {"best": self._sign * shown, "ago": self._sign * past[: len(values)]}

    def new_segment(self) -> None:
        self._past = np.full(self._window, np.nan)

    def dump(self) -> dict[str, Any]:
        return {"y": self._y, "past": self._past.tobytes()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._y, self._past = state["y"], np.frombuffer(state["past"], np.float64).copy()


class NotFiniteMeasure:
    """Points that are no number or infinite. Columns: row (how many without a break, up to this one), total. A restore
    ends a row."""

    key = "not_finite()"
    __slots__ = (
        "_row",
        "_total",
    )
    names = ("row", "total")

    def __init__(self) -> None:
        self._row = self._total = 0

    def point(self, step: int, value: float) -> tuple[int, int]:
        odd = not math.isfinite(value)
        self._row, self._total = self._row + 1 if odd else 0, self._total + odd
        return self._row, self._total

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        if len(values) <= FEW:
            return one_by_one(self, steps, values)
        return alone(self, steps, values)

    @classmethod
    def fold_many(cls, many: Sequence[NotFiniteMeasure], steps: Ints, values: Floats, ends: Ints) -> Mapping[str, NDArray[Any]]:
        odd = ~np.isfinite(values)
        before = np.array([one._total for one in many])
        row = in_a_row(odd, np.array([one._row for one in many]))
        total = before[:, None] + np.cumsum(odd, axis=1) if odd.any() else np.repeat(before[:, None], values.shape[1], axis=1)
        for one, last, count in zip(many, ended(row, ends), ended(total, ends), strict=True):
            one._row, one._total = last, count
        return {"row": row, "total": total}

    def new_segment(self) -> None:
        self._row = 0

    def dump(self) -> dict[str, Any]:
        return {"row": self._row, "total": self._total}

    def load(self, state: Mapping[str, Any]) -> None:
        self._row, self._total = state["row"], state["total"]


class BoundsMeasure:
    """Points outside [least, most]; no number is outside. Columns: evaluations, fails (outside, after the first `after`
    evaluations), first (the first point that fails). A restore changes nothing: the counts are of the whole attempt."""

    names = ("evaluations", "fails", "first")

    @staticmethod
    def key_of(least: float, most: float, after: int) -> str:
        return f"bounds({least},{most},{after})"

    def __init__(self, least: float, most: float, after: int) -> None:
        self.key = self.key_of(least, most, after)
        self._least, self._most, self._after = least, most, after
        self._evaluations, self._failed = 0, False

    def point(self, step: int, value: float) -> tuple[int, bool, bool]:
        self._evaluations += 1
        fails = self._evaluations > self._after and not self._least <= value <= self._most
        first = fails and not self._failed
        self._failed = self._failed or fails
        return self._evaluations, fails, first

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        evaluations = np.arange(self._evaluations + 1, self._evaluations + 1 + len(values))
        fails = ~((values >= self._least) & (values <= self._most)) & (evaluations > self._after)
        first = np.zeros(len(values), np.bool_)
        if not self._failed and fails.any():
            first[int(fails.argmax())] = self._failed = True
        self._evaluations = int(evaluations[-1])
        return {"evaluations": evaluations, "fails": fails, "first": first}

    def new_segment(self) -> None:
        """See the class."""

    def dump(self) -> dict[str, Any]:
        return {"evaluations": self._evaluations, "failed": self._failed}

    def load(self, state: Mapping[str, Any]) -> None:
        self._evaluations, self._failed = state["evaluations"], state["failed"]
