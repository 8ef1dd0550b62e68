"""Policies over past runs: the judge's own windows, cohorts, policies and gates, over whole curves at once.

All runs of a group are fed in one order, each point seeing only what a live daemon would have read before it. A run that is
pruned stops there: what came after it is hidden from its peers, which are screened anew from that moment on.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np

from ..core.events import Ack, Decision, MetricChunk, RunEvent, Series, Started
from ..core.ports import RUNS, Record
from ..core.run import RunRecord
from ..core.rungs import NONE, RungMeasure, rung_of
from ..core.standing import PERMISSION, Standing
from ..core.window import Columns, Floats, Ints
from .attempt import Attempt
from .candidates import Candidates, Heap
from .cuts import Cuts
from .docket import Docket, Gates
from .rules import Rule
from .scope import Rules

NEVER = np.iinfo(np.int64).max
EndState = Literal["finished", "pruned", "failed", "lost"]


@dataclass(frozen=True)
class Points:
    """One series of a trial, in its order: equal lengths n. `orders` number the records of all trials of the group in which
    the points stood; `times` are when they were born, `appended` when the log took them (seconds since 1970)."""

    source: str
    positions: Ints
    steps: Ints
    values: Floats
    times: Floats
    appended: Floats
    orders: Ints


@dataclass(frozen=True)
class Trial:
    """One past attempt, with the series that may be judged. `state` is how it ended; `running` if it has not."""

    run: str
    attempt: str
    group: str | None
    said: Started
    series: Mapping[str, Points]
    state: str = "finished"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: where it was ended (None: not at all), and its best by then and in all; NaN where it had no
    finite value. `steps` and `steps_run` are the last step of its judged series, and the last one that was run."""

    run: str
    attempt: str
    group: str | None
    goal: str
    series: str
    steps: int
    steps_run: int
    best: float
    best_run: float
    best_step: int
    stopped: Decision | None
    decisions: tuple[Decision, ...] = ()


@dataclass
class _Fed:
    """A trial as it is judged."""

    trial: Trial
    attempt: Attempt
    columns: dict[str, Columns] = field(default_factory=dict)
    candidates: list[Candidates] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    end: int = NEVER
    ended_at: float = 0.0
    stopped: Decision | None = None
    stopped_order: int = NEVER


class Replay:
    """One group of trials under one set of rules. `gates` are asked as the daemon's would be."""

    def __init__(self, rules: Rules, gates: Gates, primary: str = "val_loss") -> None:
        self._docket = Docket(gates, Counter())
        self._cuts = Cuts(self._docket, rules, primary)
        self._rules, self._primary = rules, primary
        self._fed: dict[str, _Fed] = {}
        self._heap: Heap = []
        self._order = 0
        self._pruned: list[_Fed] = []
        """Ended by the record in hand."""

    def run(self, trials: Iterable[Trial]) -> list[Outcome]:
        """Feeds the trials of one group and says what became of each, in the order given."""
        for trial in trials:
            self._feed(trial)
        for fed in self._fed.values():
            self._screen(fed)
        self._push_all()
        ends = sorted((fed.end, name) for name, fed in self._fed.items() if fed.end != NEVER)
        at = 0
        while self._heap or at < len(ends) or self._pruned:
            following = self._heap[0][0] if self._heap else NEVER
            if self._pruned and following > self._order:
                self._stop(self._pruned)
                continue
            while at < len(ends) and ends[at][0] < following:
                fed = self._fed[ends[at][1]]
                if fed.stopped is None:
                    self._end(fed, fed.trial.state, fed.ended_at)
                at += 1
            if self._heap:
                self._order, _, _, tie, candidates = heapq.heappop(self._heap)
                self._docket.fire(candidates.when)
                candidates.judge(self._conclude)
                candidates.push(self._heap, tie)
        return [_outcome(fed) for fed in self._fed.values()]

    # -- feeding ---------------------------------------------------------------------------------------------------

    def _feed(self, trial: Trial) -> None:
        said = msgspec.structs.replace(trial.said, mode="act", allow=sorted(set(PERMISSION.values())))
        started = min((float(one.appended[0]) for one in trial.series.values() if len(one.orders)), default=0.0)
        record = RunRecord(trial.run, trial.attempt, trial.group, started=started, said=said)
        attempt = self._docket.attempts[trial.attempt] = Attempt(Standing(record), self._rules, self._primary)
        self._docket.groups.join(attempt)
        for chunk in _first_points(trial):
            attempt.note(chunk)
        fed = self._fed[trial.attempt] = _Fed(trial, attempt)
        for series, window in attempt.windows.items():
            if series not in trial.series:
                continue
            one = trial.series[series]
            columns = window.extend(one.source, one.positions, (one.steps, one.values, one.times), one.appended, one.orders)
            if columns is not None:
                fed.columns[series] = columns
                self._docket.cohorts.take(attempt, series, columns)
        last = [one for one in trial.series.values() if len(one.orders)]
        if last and trial.state != "running":
            fed.end = max(int(one.orders[-1]) for one in last)
            fed.ended_at = max(float(one.appended[-1]) for one in last)
            self._docket.cohorts.finish(attempt, fed.end)

    def _screen(self, fed: _Fed) -> None:
        """The whole curve at once: what each point could know of the peers, and where each rule may speak."""
        last: dict[str, _Fed] = {}
        for one in self._fed.values():
            if one.trial.run not in last or one.end >= last[one.trial.run].end:
                last[one.trial.run] = one
        for series, columns in fed.columns.items():
            peers = self._docket.cohorts.peers(fed.attempt, series, columns, self._docket.attempts)
            if peers is not None:
                running = columns.orders[peers.points] <= np.array([last[run].end for run in peers.runs])[:, None]
                # How a peer ended is looked at only where it no longer ran.
                states = [last[run].trial.state for run in peers.runs]
                finished = np.array([[state == "finished"] for state in states])
                peers = replace(peers, running=running, states=states, finished=finished)
                columns = fed.columns[series] = replace(columns, peers=peers)
            for number, rule in enumerate(fed.attempt.rules):
                if fed.attempt.judged(rule) == series:
                    fed.candidates.append(Candidates(fed.attempt, rule, columns, number))

    def _push_all(self) -> None:
        self._heap.clear()
        tie = 0
        for fed in self._fed.values():
            for candidates in fed.candidates if fed.stopped is None else ():
                candidates.push(self._heap, tie)
                tie += 1

    # -- judging ---------------------------------------------------------------------------------------------------

    def _conclude(self, attempt: Attempt, rule: Rule, decision: Decision, progress: float | None) -> None:
        fed = self._fed[attempt.standing.record.attempt]
        passed = self._docket.conclude(attempt, rule, decision, progress)
        if passed is None:
            return
        fed.decisions.append(passed)
        if passed.action == "prune" and passed.status in ("pending", "would"):
            fed.stopped, fed.stopped_order = passed, self._order
            self._pruned.append(fed)
        elif passed.status == "pending":
            ack = Ack(passed.id, passed.run, passed.attempt, "applied", passed.time, group=passed.group)
            self._cuts.fold(ack, _record(passed.time))

    def _end(self, fed: _Fed, state: str, time: float) -> None:
        """Folds the end as the log would tell it, at the position behind the trial's last point."""
        positions = [int(one.positions[-1]) for one in fed.trial.series.values() if len(one.positions)]
        ended: EndState = state if state in ("pruned", "failed", "lost") else "finished"  # type: ignore[assignment]
        seq = max(positions, default=0) + 1
        event = RunEvent(fed.trial.run, fed.trial.attempt, "ended", time, seq=seq, state=ended, group=fed.trial.group)
        self._cuts.fold(event, _record(time))

    def _stop(self, pruned: list[_Fed]) -> None:
        """What the record that ended them had to say is said: they are over."""
        for fed in pruned:
            if fed.stopped is not None:
                self._end(fed, "pruned", fed.stopped.time)
                self._hide(fed)
        pruned.clear()
        self._push_all()

    def _hide(self, gone: _Fed) -> None:
        """From here on the others see of the pruned trial only what it had shown."""
        shown = {gone.attempt.canonical(series): self._shown(gone, series) for series in gone.attempt.curves()}
        for fed in self._fed.values():
            if fed.attempt.standing.record.over:
                continue
            for candidates in fed.candidates:
                if self._hides(gone.trial.run, shown, fed.attempt, candidates):
                    candidates.screen_after(self._order)

    def _hides(self, run: str, shown: Mapping[str, int], attempt: Attempt, candidates: Candidates) -> bool:
        """Takes what the pruned run did not show any more out of what the candidates' points see of it; whether their policy
        looks at peers, and anything was taken."""
        columns = candidates.columns
        peers, series = columns.peers, columns.subject.series
        if peers is None or run not in peers.runs:
            return False
        later = columns.orders[peers.points] > self._order
        row = peers.runs.index(run)
        peers.last[row, later] = shown.get(attempt.canonical(series), NONE)
        peers.running[row, later] = False
        peers.states[row], peers.finished[row] = "pruned", False
        compares = any(isinstance(one, RungMeasure) for one in candidates.rule.policy.measures(columns.subject))
        return compares and bool(later.any())

    def _shown(self, gone: _Fed, series: str) -> int:
        """The highest rung that the log has shown by now of a run that goes no further; what it had reached closes it."""
        columns = gone.columns[series]
        ran = int(np.searchsorted(columns.orders, self._order, side="right"))
        y = columns.values[:ran] if columns.subject.goal == "min" else -columns.values[:ran]
        rung = rung_of(int(columns.steps[ran - 1]))
        best = float(y[np.isfinite(y)].min(initial=np.inf)) + 0.0  # as RungMeasure has it: 0.0 for -0.0
        self._docket.cohorts.close(gone.attempt, series, rung, best, self._order)
        return rung


def _record(time: float) -> Record:
    return Record(RUNS, 0, 0, "", b"", time)


def _first_points(trial: Trial) -> list[MetricChunk]:
    """A chunk for the first point of each series: which of several names is judged is chosen by them."""
    chunks = []
    for series, one in trial.series.items():
        if len(one.steps):
            first = Series(series, [int(one.steps[0])], [float(one.values[0])], [float(one.times[0])])
            chunks.append(MetricChunk(trial.run, trial.attempt, one.source, int(one.positions[0]), [first]))
    return sorted(chunks, key=lambda chunk: (chunk.series[0].times[0], chunk.seq))


def _outcome(fed: _Fed) -> Outcome:
    attempt, trial = fed.attempt, fed.trial
    series = attempt.monitor
    columns = fed.columns.get(series)
    stop = fed.stopped
    if columns is None:
        nan = float("nan")
        return Outcome(trial.run, trial.attempt, trial.group, attempt.goal, series, 0, 0, nan, nan, 0, stop, tuple(fed.decisions))
    y = np.where(np.isfinite(columns.values), columns.values if attempt.goal == "min" else -columns.values, np.inf)
    sign = 1.0 if attempt.goal == "min" else -1.0
    ran = len(y) if stop is None else int(np.searchsorted(columns.orders, fed.stopped_order, side="right"))
    best, best_run = float(y.min()), float(y[:ran].min(initial=np.inf))
    return Outcome(
        trial.run,
        trial.attempt,
        trial.group,
        attempt.goal,
        series,
        int(columns.steps[-1]),
        int(columns.steps[ran - 1]) if ran else 0,
        sign * best if np.isfinite(best) else float("nan"),
        sign * best_run if np.isfinite(best_run) else float("nan"),
        int(columns.steps[int(y.argmin())]),
        stop,
        tuple(fed.decisions),
    )
