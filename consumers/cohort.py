"""The runs of a group side by side, rung by rung, each as the log had shown it: what policies that compare runs look at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..core.peers import Peers
from ..core.rungs import NONE, RungMeasure
from ..core.window import Columns, Floats, Ints
from .attempt import Attempt

Key = tuple[str, str, str]
"""(group, series, goal)"""
MOST_PEERS = 256
"""Of a larger group the newest are compared with."""
WIDTH = 64
"""Rungs that the matrices grow by."""


class Cohort:
    """Rows are attempts, columns rungs. `seen[row, rung]` numbers the record that closed the rung (0: long ago), so that a
    point sees of the others just what stood in the log before it, however the log was cut into batches."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.runs: dict[str, str] = {}
        self.best: Floats = np.full((4, WIDTH), np.nan)
        self.seen: Ints = np.zeros((4, WIDTH), np.int64)
        self.first: Ints = np.zeros(4, np.int64)
        self.last: Ints = np.full(4, NONE, np.int64)
        self.newest: Ints = np.zeros(4, np.int64)
        """Of each row the number of the last record that closed a rung of it."""

    def add(self, attempt: str, run: str) -> None:
        """A row for the attempt; the oldest attempt leaves a full cohort for good."""
        if len(self.rows) >= MOST_PEERS:
            oldest = min(self.rows)
            if attempt < oldest:
                return
            self.remove(oldest)
        free = set(range(len(self.last))).difference(self.rows.values())
        if not free:
            free = {len(self.last)}
            self._grow(rows=len(self.last))
        self.rows[attempt], self.runs[attempt] = min(free), run

    def remove(self, attempt: str) -> None:
        """The attempt is no one's peer any more."""
        row = self.rows.pop(attempt, None)
        if row is not None:
            del self.runs[attempt]
            self.best[row], self.seen[row] = np.nan, 0
            self.first[row], self.last[row], self.newest[row] = 0, NONE, 0

    def fill(self, attempt: str, measure: RungMeasure, seen: int | Ints = 0, closed: Ints | None = None) -> None:
        """Takes in what the measure has closed; `closed` and `seen` [n]: the rungs that were closed now, rising, and the
        record that closed each (and those jumped before it)."""
        row, end = self.rows[attempt], measure.closed + 1
        if end > self.best.shape[1]:
            self._grow(columns=max(WIDTH, end - self.best.shape[1]))
        start = self.last[row] + 1 if self.last[row] != NONE else measure.start
        self.first[row] = measure.start
        self.best[row, start:end] = measure.curve[start - measure.start :]
        if closed is None:
            self.seen[row, start:end] = seen
        else:
            self.seen[row, start:end] = np.repeat(seen, np.diff(closed, prepend=start - 1))
        self.last[row] = measure.closed
        self.newest[row] = self.seen[row, measure.closed] if end else 0

    def _grow(self, rows: int = 0, columns: int = 0) -> None:
        pad = ((0, rows), (0, columns))
        self.best = np.pad(self.best, pad, constant_values=np.nan)
        self.seen = np.pad(self.seen, pad)
        self.first = np.pad(self.first, (0, rows))
        self.last = np.pad(self.last, (0, rows), constant_values=NONE)
        self.newest = np.pad(self.newest, (0, rows))

    def others(self, run: str, known: Mapping[str, Attempt]) -> list[str]:
        """The newest attempt of each other run, in the order of their start; those that are forgotten leave."""
        newest: dict[str, str] = {}
        for attempt in sorted(self.rows):
            if attempt not in known:
                self.remove(attempt)
            elif self.runs[attempt] != run:
                newest[self.runs[attempt]] = attempt
        return sorted(newest.values())

    def last_before(self, rows: Ints, orders: Ints) -> Ints:
        """[rows, k]: the last rung of each row that records before each of `orders` [k] (rising) had closed."""
        last = np.repeat(self.last[rows][:, None], len(orders), axis=1)
        for i in np.flatnonzero(self.newest[rows] >= orders[0]).tolist():
            row = int(rows[i])
            first, end = int(self.first[row]), int(self.last[row]) + 1
            shown = np.searchsorted(self.seen[row, first:end], orders, side="left")
            last[i] = np.where(shown > 0, first + shown - 1, NONE)
        return last


class Cohorts:
    """All groups that are judged here."""

    def __init__(self) -> None:
        self._cohorts: dict[Key, Cohort] = {}
        self._of: dict[tuple[str, str], Key] = {}

    def take(self, attempt: Attempt, series: str, columns: Columns | None = None) -> None:
        """Takes in the rungs that the attempt's series has closed, with `columns` now, else long ago."""
        measure = attempt.curve(series)
        record = attempt.standing.record
        if measure is None or record.group is None:
            return
        key = (record.group, attempt.canonical(series), measure.goal)
        name = record.attempt
        if self._of.get((name, series)) != key:
            self._leave(name, series)
            self._of[name, series] = key
            self._cohorts.setdefault(key, Cohort()).add(name, record.run)
        cohort = self._cohorts[key]
        if name not in cohort.rows:  # a full cohort has newer ones
            return
        if columns is None:
            cohort.fill(name, measure)
            return
        closed: Ints = columns.figures[measure.key]["closed"]
        at = np.flatnonzero(closed != NONE)
        if at.size:
            cohort.fill(name, measure, columns.orders[at], closed[at])

    def _leave(self, attempt: str, series: str) -> None:
        key = self._of.pop((attempt, series), None)
        if key is not None:
            self._cohorts[key].remove(attempt)
            if not self._cohorts[key].rows:
                del self._cohorts[key]

    def peers(self, attempt: Attempt, series: str, columns: Columns, known: Mapping[str, Attempt]) -> Peers | None:
        """What the points of `columns` that closed a rung could know of the group; None where there is nobody."""
        key = self._of.get((attempt.standing.record.attempt, series))
        measure = attempt.curve(series)
        if key is None or measure is None:
            return None
        closed: Ints = columns.figures[measure.key]["closed"]
        points = np.flatnonzero(closed != NONE)
        if not points.size:
            return None
        cohort, record = self._cohorts[key], attempt.standing.record
        names = cohort.others(record.run, known)
        if not names:
            return None
        rows = np.array([cohort.rows[name] for name in names])
        orders = columns.orders[points]
        return Peers(
            points,
            closed[points],
            [cohort.runs[name] for name in names],
            [known[name].standing.record.state for name in names],
            cohort.last_before(rows, orders),
            float("nan") if record.said.total_steps is None else float(record.said.total_steps),
            measure.start,
            measure.curve,
            rows,
            cohort.best,
        )

    def join(self, attempt: Attempt) -> None:
        """The attempt may have told another group, or was loaded: all its series are where they belong."""
        record = attempt.standing.record
        for series in attempt.curves():
            key = self._of.get((record.attempt, series))
            if key is None or key[0] != record.group:
                self._leave(record.attempt, series)
                self.take(attempt, series)

    def has_company(self, attempt: str, known: Mapping[str, Attempt]) -> bool:
        """Whether a run of one of the attempt's groups is still going on, and may be compared with it."""
        mine = {key for (name, _), key in self._of.items() if name == attempt}
        return any(name in known and not known[name].standing.record.over for key in mine for name in self._cohorts[key].rows)

    def forget(self, attempt: str) -> None:
        """The attempt is no one's peer any more."""
        for name, series in [pair for pair in self._of if pair[0] == attempt]:
            self._leave(name, series)

    def clear(self) -> None:
        """Forgets everything."""
        self._cohorts.clear()
        self._of.clear()
