"""The recent past of one series of one attempt, and what is remembered of the rest: where numpy enters.

A Window takes points in the order of the log and hands back Columns: for each point that is to be judged, what was known
right after it. The same points give the same columns however they were cut into chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .events import Decision, Goal, decision_id

if TYPE_CHECKING:
    from .peers import Peers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TAIL = 128
"""Points a window keeps as they were."""


class Measure(Protocol):
    """A running figure of one series. `key` names it and its options, so that policies that need the same share it."""

    key: str

    def fold(self, steps: Ints, values: Floats) -> Mapping[str, NDArray[Any]]:
        """Takes n >= 1 points in; columns of length n: the figures right after each point."""

    def new_segment(self) -> None:
        """Weights were restored: what follows does not continue what was."""

    def dump(self) -> dict[str, Any]:
        """The state as plain values (msgpack)."""

    def load(self, state: Mapping[str, Any]) -> None:
        """The state that `dump` gave."""


@dataclass(frozen=True)
class Subject:
    """Whose series it is."""

    run: str
    attempt: str
    series: str
    goal: Goal = "min"
    group: str | None = None


@dataclass(frozen=True)
class Evidence:
    """All that a policy may look at: one point and what was known right after it. `now` is when the point was appended
    to the log, `figures` the measures by key, `recent` the last points (up to 128, this one last), `peers` the other runs of
    the group, if this point closed a rung (one moment, k = 1)."""

    subject: Subject
    step: int
    value: float
    time: float
    now: float
    trigger: str
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    recent_steps: Sequence[float] | Ints = ()
    recent: Sequence[float] | Floats = ()
    peers: Peers | None = None

    def decide(
        self,
        policy: tuple[str, int],
        action: str,
        reason: str,
        params: Mapping[str, Any] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Decision:
        """The decision that follows from this point; `policy` is (name, version). Gates set mode, status and not_after."""
        name, version = policy
        who = self.subject
        shown = {"series": who.series, "goal": who.goal, "step": self.step, "value": self.value, **(evidence or {})}
        return Decision(
            id=decision_id(who.run, who.attempt, name, version, action, self.trigger),
            run=who.run,
            attempt=who.attempt,
            group=who.group,
            action=action,
            policy=name,
            policy_version=version,
            trigger=self.trigger,
            reason=reason,
            time=self.now,
            not_after=self.now,
            step=self.step,
            params=dict(params or {}),
            evidence=shown,
        )


@dataclass(frozen=True)
class Columns:
    """n points to be judged, in order, as columns; `figures[key][name]` are what the measures knew right after each.
    `orders` number the records they came in, over all runs; `peers` are the other runs of the group, if there are any."""

    subject: Subject
    source: str
    positions: Ints
    steps: Ints
    values: Floats
    times: Floats
    appended: Floats
    orders: Ints
    figures: Mapping[str, Mapping[str, NDArray[Any]]]
    _tail_steps: Ints
    _tail: Floats
    peers: Peers | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def evidence(self, i: int) -> Evidence:
        """What was known right after point i of the columns."""
        end = len(self._tail) - len(self) + i + 1
        start = max(0, end - TAIL)
        return Evidence(
            subject=self.subject,
            step=int(self.steps[i]),
            value=float(self.values[i]),
            time=float(self.times[i]),
            now=float(self.appended[i]),
            trigger=f"{self.source}:{int(self.positions[i])}",
            figures={key: {name: column[i].item() for name, column in named.items()} for key, named in self.figures.items()},
            recent_steps=self._tail_steps[start:end],
            recent=self._tail[start:end],
            peers=self.peers.moment(i) if self.peers is not None else None,
        )


def _pick(mask: NDArray[np.bool_], *columns: Any) -> tuple[Any, ...]:
    return tuple(column[mask] for column in columns)


def _highest_before(column: Ints, start: int) -> Ints:
    """For each entry the highest of `start` and the entries before it."""
    highest: Ints = np.maximum.accumulate(np.concatenate((np.array([start], np.int64), column)))[:-1]
    return highest


class Window:
    """One series of one attempt. Drops what it has seen by (source, position), never by step; a step that does not
    advance is counted (`not_advancing`) and not judged."""

    def __init__(self, subject: Subject, measures: Iterable[Measure] = ()) -> None:
        self.subject = subject
        self.measures = {one.key: one for one in measures}
        self.last: dict[str, int] = {}
        self.last_step: int | None = None
        self.points = 0
        self.repeated = 0
        self.not_advancing = 0
        self._steps: Ints = np.empty(0, np.int64)
        self._values: Floats = np.empty(0, np.float64)
        self._latest: Columns | None = None
        self._restored: tuple[int, float, float, dict[str, dict[str, float]]] | None = None

    def extend(
        self,
        source: str,
        positions: Sequence[int] | Ints,
        points: tuple[Sequence[int] | Ints, Sequence[Any] | Floats, Sequence[float] | Floats],
        appended: float | Floats,
        orders: int | Ints = 0,
    ) -> Columns | None:
        """Takes `points` (steps, values, times; equal lengths, rising positions) in, appended to the log at one time or at one
        a point, in one record or (`orders`, rising) several; the columns to judge, or None when there is nothing new."""
        at = np.asarray(positions, np.int64)
        steps: Ints = np.asarray(points[0], np.int64)
        values: Floats = np.asarray(points[1], np.float64)
        times: Floats = np.asarray(points[2], np.float64)
        when = np.full(at.size, appended) if isinstance(appended, float) else appended
        order = np.full(at.size, orders, np.int64) if isinstance(orders, int) else orders
        fresh = at > _highest_before(at, self.last.get(source, -1))
        if not fresh.all():
            self.repeated += int(fresh.size - fresh.sum())
            at, steps, values, times, when, order = _pick(fresh, at, steps, values, times, when, order)
        if not at.size:
            return None
        self.last[source] = int(at[-1])
        ahead = steps > _highest_before(steps, np.iinfo(np.int64).min if self.last_step is None else self.last_step)
        if not ahead.all():
            self.not_advancing += int(ahead.size - ahead.sum())
            at, steps, values, times, when, order = _pick(ahead, at, steps, values, times, when, order)
            if not at.size:
                return None
        self.last_step = int(steps[-1])
        self.points += len(steps)
        tail_steps: Ints = np.concatenate((self._steps, steps))
        tail: Floats = np.concatenate((self._values, values))
        self._steps, self._values = tail_steps[-TAIL:], tail[-TAIL:]
        figures = {key: one.fold(steps, values) for key, one in self.measures.items()}
        self._latest = Columns(self.subject, source, at, steps, values, times, when, order, figures, tail_steps, tail)
        return self._latest

    def latest(self, now: float, trigger: str) -> Evidence | None:
        """The evidence of the last judged point, as of `now` and for `trigger`; None before there is one."""
        if self._latest is not None:
            return replace(self._latest.evidence(len(self._latest) - 1), now=now, trigger=trigger)
        if self._restored is None:
            return None
        step, value, time, figures = self._restored
        return Evidence(self.subject, step, value, time, now, trigger, figures, self._steps, self._values)

    def new_segment(self) -> None:
        """After a restore: steps may start again from an earlier one, measures start a new segment."""
        self.last_step = None
        for one in self.measures.values():
            one.new_segment()

    def dump(self) -> dict[str, Any]:
        """The state as plain values (msgpack)."""
        last = self.latest(0.0, "")
        return {
            "latest": None if last is None else [last.step, last.value, last.time, last.figures],
            "last": self.last,
            "last_step": self.last_step,
            "counts": [self.points, self.repeated, self.not_advancing],
            "steps": self._steps.tobytes(),
            "values": self._values.tobytes(),
            "measures": {key: one.dump() for key, one in self.measures.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """The state that `dump` gave; a measure that was not there then starts empty."""
        self.last = dict(state["last"])
        self.last_step = state["last_step"]
        self.points, self.repeated, self.not_advancing = state["counts"]
        self._latest = None
        self._restored = None if state["latest"] is None else tuple(state["latest"])
        self._steps = np.frombuffer(state["steps"], np.int64).copy()
        self._values = np.frombuffer(state["values"], np.float64).copy()
        for key, one in self.measures.items():
            if key in state["measures"]:
                one.load(state["measures"][key])
