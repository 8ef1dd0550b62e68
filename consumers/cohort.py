"""The runs of a group side by side, rung by rung, each as the log had shown it: what policies that compare runs look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..core.closed_rungs import ClosedRungs
from ..core.peers import Peers
from ..core.rungs import NONE, RungMeasure
from ..core.window import Columns, Ints
from .attempt import Attempt

Key = tuple[str, str, str]
"""(group, series, goal)"""
MOST_PEERS = 256
"""Of a larger group the newest are compared with."""


class Cohort:
    """The runs of a group that are compared by one series. What is closed of each tells which record closed it, so that a
    point sees of the others just what stood in the log before it, however the log was cut into batches. A run's row goes on
    over its attempts: one that begins again adds nothing before it has come further."""

    def __init__(self, closed: ClosedRungs) -> None:
        self.rows: dict[str, int] = {}
        """Of each run."""
        self.attempts: dict[str, list[str]] = {}
        """Of each run, in the order in which they started."""
        self._closed = closed

    def add(self, attempt: str, run: str) -> None:
        """The attempt belongs to its run's row; the run that was started first leaves a full cohort for good."""
        if run not in self.rows:
            if len(self.rows) >= MOST_PEERS:
                oldest = min(self.rows, key=lambda one: self.attempts[one][-1])
                if attempt < self.attempts[oldest][-1]:
                    return
                self._clear(oldest)
            self.rows[run], self.attempts[run] = self._closed.add(), []
        self.attempts[run] = sorted({*self.attempts[run], attempt})

    def remove(self, attempt: str, run: str) -> None:
        """The attempt is forgotten; its run with the last of them."""
        if attempt in self.attempts.get(run, ()):
            self.attempts[run].remove(attempt)
            if not self.attempts[run]:
                self._clear(run)

    def _clear(self, run: str) -> None:
        self._closed.remove(self.rows.pop(run))
        del self.attempts[run]

    def fill(self, run: str, measure: RungMeasure, orders: Ints | None = None, closed: Ints | None = None) -> None:
        """Takes in what the measure has closed: `closed` and `orders` [n]: the rungs that were closed now, rising, and the
        record that closed each (and those jumped before it); without them, all was closed long ago."""
        row, end = self.rows[run], measure.closed + 1
        known = int(self._closed.last[row])
        start = known + 1 if known != NONE else measure.start
        if measure.closed == NONE or end <= start:
            return
        best = measure.curve[max(0, start - measure.start) :]
        if measure.start > start:  # the run jumped there
            best = np.concatenate((np.full(measure.start - start, np.inf), best))
        if known != NONE and best[0] > (reached := self._closed.reached(row, known)):  # it falls, so what follows is below, too
            best = np.minimum(best, reached)
        seen: Ints | int = 0
        if closed is not None and orders is not None:
            if len(closed) == 1:
                seen = int(orders[0])
            else:
                ahead = closed >= start
                seen = np.repeat(orders[ahead], np.diff(closed[ahead], prepend=start - 1))
        self._closed.put(row, start, best, seen)


class Moments(NamedTuple):
    """Points that closed a rung, of the series of many attempts: where the point stands among all, the number of its series,
    the rung and the number of its record; one series after the other."""

    points: Ints
    row: Ints
    rung: Ints
    orders: Ints


class _Roster(NamedTuple):
    """The rows of a cohort and, by run, their places."""

    rows: Ints
    places: Mapping[str, int]


class Cohorts:
    """All groups that are judged here."""

    def __init__(self) -> None:
        self._cohorts: dict[Key, Cohort] = {}
        self._of: dict[str, dict[str, Key]] = {}
        """By attempt and series."""
        self._runs: dict[str, str] = {}
        self._closed = ClosedRungs()

    def take(self, attempt: Attempt, series: str, columns: Columns | None = None) -> None:
        """Takes in the rungs that the attempt's series has closed, with `columns` now, else long ago."""
        self.enter(attempt, series)
        measure = attempt.curve(series)
        if columns is None:
            self.fill(attempt, series)
        elif measure is not None:
            closed: Ints = columns.figures[measure.key]["closed"]
            at = np.flatnonzero(closed != NONE)
            if at.size:
                self.fill(attempt, series, columns.orders[at], closed[at])

    def enter(self, attempt: Attempt, series: str) -> None:
        """The attempt's series is where it belongs."""
        measure, record = attempt.curve(series), attempt.standing.record
        if measure is None or record.group is None:
            return
        key, name = (record.group, attempt.canonical(series), measure.goal), record.attempt
        if self._key(name, series) != key:
            self._leave(name, series)
            self._of.setdefault(name, {})[series] = key
            self._runs[name] = record.run
            self._cohorts.setdefault(key, Cohort(self._closed)).add(name, record.run)

    def fill(self, attempt: Attempt, series: str, orders: Ints | None = None, closed: Ints | None = None) -> None:
        """Takes in what an attempt's series has closed, see Cohort.fill, if it is compared with any."""
        record, measure = attempt.standing.record, attempt.curve(series)
        key = self._key(record.attempt, series)
        if key is None or measure is None or record.group is None:
            return
        cohort = self._cohorts[key]
        if record.attempt in cohort.attempts.get(record.run, ()):  # a full cohort has newer ones
            cohort.fill(record.run, measure, orders, closed)

    def _key(self, attempt: str, series: str) -> Key | None:
        keys = self._of.get(attempt)
        return None if keys is None else keys.get(series)

    def company(self, attempt: Attempt, series: str) -> int:
        """How many runs there are where the attempt's series belongs, itself among them."""
        key = self._key(attempt.standing.record.attempt, series)
        return 0 if key is None else len(self._cohorts[key].rows)

    def _leave(self, attempt: str, series: str) -> None:
        keys = self._of.get(attempt, {})
        key = keys.pop(series, None)
        if key is not None and key not in keys.values():  # else it is there under another of its names
            self._cohorts[key].remove(attempt, self._runs[attempt])
            if not self._cohorts[key].rows:
                del self._cohorts[key]

    def peers(self, attempt: Attempt, series: str, columns: Columns, known: Mapping[str, Attempt]) -> Peers | None:
        """What the points of `columns` that closed a rung could know of the group; None where there is nobody."""
        record, measure = attempt.standing.record, attempt.curve(series)
        key = self._key(record.attempt, series)
        if key is None or measure is None:
            return None
        closed: Ints = columns.figures[measure.key]["closed"]
        points = np.flatnonzero(closed != NONE)
        cohort = self._cohorts[key]
        runs = [run for run in cohort.rows if run != record.run]
        if not points.size or not runs:
            return None
        rows = np.array([[cohort.rows[run]] for run in runs])
        states = [known[cohort.attempts[run][-1]].standing.record.state for run in runs]
        running = np.array([[state == "running"] for state in states])
        return Peers(
            points,
            closed[points],
            runs,
            states,
            self._closed.last_before(rows, columns.orders[points]),
            np.repeat(running, len(points), axis=1),
            np.array([[state == "finished"] for state in states]),
            float("nan") if record.said.total_steps is None else float(record.said.total_steps),
            measure.start,
            measure.curve,
            0,
            rows,
            self._closed,
        )

    def crowd(self, many: Sequence[tuple[Attempt, str]], moments: Moments, known: Mapping[str, Attempt]) -> Peers | None:
        """`peers` of the series of many attempts at once, without names; those of moments where nobody was are left out."""
        rosters: dict[Key, _Roster] = {}
        keys = [self._key(attempt.standing.record.attempt, series) for attempt, series in many]
        for key in keys:
            if key is not None and key not in rosters:
                rosters[key] = self._roster(key, known)
        width = max((len(roster.rows) for roster in rosters.values()), default=0)
        rows = np.zeros((width, len(many)), np.int64)
        accompanied = np.zeros(len(many), np.bool_)
        for i, ((attempt, _), key) in enumerate(zip(many, keys, strict=True)):
            if key is not None:
                roster, own = rosters[key], rosters[key].places.get(attempt.standing.record.run)
                rows[: len(roster.rows), i] = roster.rows
                if own is not None:
                    rows[own, i] = 0
                accompanied[i] = len(roster.rows) > (own is not None)
        kept = accompanied[moments.row]
        if not kept.any():
            return None
        points, row, rung, orders = (column[kept] for column in moments)
        measures = [attempt.curve(series) for attempt, series in many]
        curves = [np.empty(0) if one is None else one.curve for one in measures]
        starts = np.array([0 if one is None else one.start for one in measures])
        begins = np.cumsum([0, *map(len, curves)])
        steps = [attempt.standing.record.said.total_steps for attempt, _ in many]
        totals = np.array([np.nan if one is None else float(one) for one in steps])
        peers, closed = rows[:, row], self._closed
        return Peers(
            points,
            rung,
            [],
            [],
            closed.last_before(peers, orders),
            closed.running[peers],
            closed.finished[peers],
            totals[row],
            starts[row],
            np.concatenate(curves),
            begins[row],
            peers,
            closed,
        )

    def _roster(self, key: Key, known: Mapping[str, Attempt]) -> _Roster:
        cohort = self._cohorts[key]
        rows = np.array(list(cohort.rows.values()), np.int64)
        states = [known[attempts[-1]].standing.record.state for attempts in cohort.attempts.values()]
        self._closed.running[rows] = [state == "running" for state in states]
        self._closed.finished[rows] = [state == "finished" for state in states]
        return _Roster(rows, {run: i for i, run in enumerate(cohort.rows)})

    def close(self, attempt: Attempt, series: str, rung: int, best: float, order: int) -> None:
        """Nothing more comes of the run: its open rung is closed with what was `best` by the record `order`."""
        record = attempt.standing.record
        key = self._key(record.attempt, series)
        row = self._cohorts[key].rows.get(record.run) if key is not None else None
        if row is not None:
            self._closed.reset(row, rung, best, order)

    def finish(self, attempt: Attempt, order: int) -> None:
        """The record `order` was the attempt's last: its open rungs are closed by it."""
        record = attempt.standing.record
        for series, curve in attempt.curves().items():
            key = self._key(record.attempt, series)
            curve.finish()
            if key is not None and record.run in self._cohorts[key].rows:
                self._cohorts[key].fill(record.run, curve, np.array([order]), np.array([curve.closed]))

    def join(self, attempt: Attempt) -> None:
        """The attempt may have told another group, or its end, or was loaded: all its series are where they belong."""
        record = attempt.standing.record
        for series in attempt.curves():
            key = self._key(record.attempt, series)
            if key is None or key[0] != record.group:
                self._leave(record.attempt, series)
                self.take(attempt, series)
            elif record.over:
                self.take(attempt, series)

    def has_company(self, attempt: str, known: Mapping[str, Attempt]) -> bool:
        """Whether a run of one of the attempt's groups is still going on, and may be compared with it."""
        cohorts = [self._cohorts[key] for key in self._of.get(attempt, {}).values()]
        newest = (attempts[-1] for cohort in cohorts for attempts in cohort.attempts.values())
        return any(not known[name].standing.record.over for name in newest)

    def forget(self, attempt: str) -> None:
        """The attempt is no one's peer any more."""
        for series in list(self._of.get(attempt, {})):
            self._leave(attempt, series)
        self._of.pop(attempt, None)
        self._runs.pop(attempt, None)

    def clear(self) -> None:
        """Forgets everything."""
        self._cohorts.clear()
        self._closed = ClosedRungs()
        self._of.clear()
        self._runs.clear()
