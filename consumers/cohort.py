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
    """Rows are runs, columns rungs. `seen[row, rung]` numbers the record that closed the rung (0: long ago), so that a point
    sees of the others just what stood in the log before it, however the log was cut into batches. A run's row goes on over
    its attempts: one that begins again adds nothing before it has come further."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.attempts: dict[str, list[str]] = {}
        """Of each run, in the order in which they started."""
        self.best: Floats = np.full((4, WIDTH), np.nan)
        self.seen: Ints = np.zeros((4, WIDTH), np.int64)
        self.first: Ints = np.zeros(4, np.int64)
        self.last: Ints = np.full(4, NONE, np.int64)
        self.newest: Ints = np.zeros(4, np.int64)
        """Of each row the number of the last record that closed a rung of it."""

    def add(self, attempt: str, run: str) -> None:
        """The attempt belongs to its run's row; the run that was started first leaves a full cohort for good."""
        if run not in self.rows:
            if len(self.rows) >= MOST_PEERS:
                oldest = min(self.rows, key=lambda one: self.attempts[one][-1])
                if attempt < self.attempts[oldest][-1]:
                    return
                self._clear(oldest)
            free = set(range(len(self.last))).difference(self.rows.values())
            if not free:
                free = {len(self.last)}
                self._grow(rows=len(self.last))
            self.rows[run], self.attempts[run] = min(free), []
        self.attempts[run] = sorted({*self.attempts[run], attempt})

    def remove(self, attempt: str, run: str) -> None:
        """The attempt is forgotten; its run with the last of them."""
        if attempt in self.attempts.get(run, ()):
            self.attempts[run].remove(attempt)
            if not self.attempts[run]:
                self._clear(run)

    def _clear(self, run: str) -> None:
        row = self.rows.pop(run)
        del self.attempts[run]
        self.best[row], self.seen[row] = np.nan, 0
        self.first[row], self.last[row], self.newest[row] = 0, NONE, 0

    def fill(self, run: str, measure: RungMeasure, orders: Ints | None = None, closed: Ints | None = None) -> None:
        """Takes in what the measure has closed: `closed` and `orders` [n]: the rungs that were closed now, rising, and the
        record that closed each (and those jumped before it); without them, all was closed long ago."""
        row, end = self.rows[run], measure.closed + 1
        known = int(self.last[row])
        start = known + 1 if known != NONE else measure.start
        if end <= start:
            return
        if end > self.best.shape[1]:
            self._grow(columns=max(WIDTH, end - self.best.shape[1]))
        if known == NONE:
            self.first[row] = start
            self.best[row, start:end] = measure.curve
        else:
            jumped = np.full(max(0, measure.start - start), np.inf)
            curve = np.concatenate((jumped, measure.curve[max(0, start - measure.start) :]))
            self.best[row, start:end] = np.minimum(curve, self.best[row, known])
        if closed is not None and orders is not None:
            ahead = closed >= start
            self.seen[row, start:end] = np.repeat(orders[ahead], np.diff(closed[ahead], prepend=start - 1))
        self.last[row] = end - 1
        self.newest[row] = self.seen[row, end - 1]

    def _grow(self, rows: int = 0, columns: int = 0) -> None:
        pad = ((0, rows), (0, columns))
        self.best = np.pad(self.best, pad, constant_values=np.nan)
        self.seen = np.pad(self.seen, pad)
        self.first = np.pad(self.first, (0, rows))
        self.last = np.pad(self.last, (0, rows), constant_values=NONE)
        self.newest = np.pad(self.newest, (0, rows))

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
        self._runs: dict[str, str] = {}

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
            self._of[name, series], self._runs[name] = key, record.run
            self._cohorts.setdefault(key, Cohort()).add(name, record.run)
        cohort = self._cohorts[key]
        if name not in cohort.attempts.get(record.run, ()):  # a full cohort has newer ones
            return
        if columns is None:
            cohort.fill(record.run, measure)
            return
        closed: Ints = columns.figures[measure.key]["closed"]
        at = np.flatnonzero(closed != NONE)
        if at.size:
            cohort.fill(record.run, measure, columns.orders[at], closed[at])

    def _leave(self, attempt: str, series: str) -> None:
        key = self._of.pop((attempt, series), None)
        again = any(name == attempt and other == key for (name, _), other in self._of.items())  # under another of its names
        if key is not None and not again:
            self._cohorts[key].remove(attempt, self._runs[attempt])
            if not self._cohorts[key].rows:
                del self._cohorts[key]

    def peers(self, attempt: Attempt, series: str, columns: Columns, known: Mapping[str, Attempt]) -> Peers | None:
        """What the points of `columns` that closed a rung could know of the group; None where there is nobody."""
        record, measure = attempt.standing.record, attempt.curve(series)
        key = self._of.get((record.attempt, series))
        if key is None or measure is None:
            return None
        closed: Ints = columns.figures[measure.key]["closed"]
        points = np.flatnonzero(closed != NONE)
        cohort = self._cohorts[key]
        runs = [run for run in cohort.rows if run != record.run]
        if not points.size or not runs:
            return None
        rows = np.array([cohort.rows[run] for run in runs])
        states = [known[cohort.attempts[run][-1]].standing.record.state for run in runs]
        running = np.array([state == "running" for state in states])
        return Peers(
            points,
            closed[points],
            runs,
            states,
            cohort.last_before(rows, columns.orders[points]),
            np.repeat(running[:, None], len(points), axis=1),
            float("nan") if record.said.total_steps is None else float(record.said.total_steps),
            measure.start,
            measure.curve,
            rows,
            cohort.best,
        )

    def close(self, attempt: Attempt, series: str, rung: int, best: float, order: int) -> None:
        """Nothing more comes of the run: its open rung is closed with what was `best` by the record `order`."""
        record = attempt.standing.record
        key = self._of.get((record.attempt, series))
        row = self._cohorts[key].rows.get(record.run) if key is not None else None
        if key is not None and row is not None and rung < self._cohorts[key].best.shape[1]:
            self._cohorts[key].best[row, rung], self._cohorts[key].seen[row, rung] = best, order

    def finish(self, attempt: Attempt, order: int) -> None:
        """The record `order` was the attempt's last: its open rungs are closed by it."""
        record = attempt.standing.record
        for series, curve in attempt.curves().items():
            key = self._of.get((record.attempt, series))
            curve.finish()
            if key is not None and record.run in self._cohorts[key].rows:
                self._cohorts[key].fill(record.run, curve, np.array([order]), np.array([curve.closed]))

    def join(self, attempt: Attempt) -> None:
        """The attempt may have told another group, or its end, or was loaded: all its series are where they belong."""
        record = attempt.standing.record
        for series in attempt.curves():
            key = self._of.get((record.attempt, series))
            if key is None or key[0] != record.group:
                self._leave(record.attempt, series)
                self.take(attempt, series)
            elif record.over:
                self.take(attempt, series)

    def has_company(self, attempt: str, known: Mapping[str, Attempt]) -> bool:
        """Whether a run of one of the attempt's groups is still going on, and may be compared with it."""
        cohorts = [self._cohorts[key] for (name, _), key in self._of.items() if name == attempt]
        newest = (attempts[-1] for cohort in cohorts for attempts in cohort.attempts.values())
        return any(not known[name].standing.record.over for name in newest)

    def forget(self, attempt: str) -> None:
        """The attempt is no one's peer any more."""
        for name, series in [pair for pair in self._of if pair[0] == attempt]:
            self._leave(name, series)
        self._runs.pop(attempt, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._cohorts.clear()
        self._of.clear()
        self._runs.clear()
