"""The recent past of one series of one attempt, and what is remembered of the rest: where numpy enters.

A Window takes points in the order of the log and hands back Columns: for each point that is to be judged, what was known
right after it. The same points give the same columns however they were cut into chunks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .events import Decision, Goal, decision_id

if TYPE_CHECKING:
    from .peers import Peers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
UNJUDGED = ""
"""The kind of a window that no policy judges (any more): it is like no other."""
TAIL = 128
"""Points a window keeps as they were."""
LOWEST = -(2**63)
MOST_TAIL = 3 * TAIL
"""So many it keeps before what is older is cut off."""


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


class FoldsPoint(Measure, Protocol):
    """A measure that takes one point in without arrays; `names` are its columns."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def point(self, step: int, value: float) -> tuple[Any, ...]:
        """What `fold` gives for one point, in the order of `names`, as plain numbers."""


class FoldsMany(Measure, Protocol):
    """A measure that folds the points of many series at once."""

    def fold_many(self, many: Sequence[Any], steps: Ints, values: Floats, ends: Ints) -> Mapping[str, NDArray[Any]]:
        """What `fold` gives for each of m measures of this key, as [m, n] arrays of `steps` and `values`. The last point of row
        i is at `ends[i]`; behind it that one is repeated, and whatever the columns say there is nothing."""


def folds_point(one: Measure) -> TypeGuard[FoldsPoint]:
    """Whether it does (isinstance of a protocol takes 25 us)."""
    return hasattr(one, "point")


def folds_many(one: Measure) -> TypeGuard[FoldsMany]:
    """Whether it does."""
    return hasattr(one, "fold_many")


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
    """n points to be judged, in order, as columns; `figures[key][name]` are what the measures knew right after each. A screen
    may be shown those of many series that are judged alike, one series after the other: `subject` is then one of them.
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


Figures = Mapping[str, Mapping[str, Any]]
"""What measures know right after one point, by key and name."""


class Latest(NamedTuple):
    """The last judged point of a series. `figures` are plain numbers, or columns, of which `row` is its own, or what
    FoldsPoint.point gave, of each measure in turn."""

    step: int
    value: float
    time: float
    figures: Mapping[str, Mapping[str, Any]] | Sequence[tuple[Any, ...]]
    row: int | None = None


def _pick(mask: NDArray[np.bool_], *columns: Any) -> tuple[Any, ...]:
    return tuple(column[mask] for column in columns)


def _highest_before(column: Ints, start: int) -> Ints:
    """For each entry the highest of `start` and the entries before it."""
    highest: Ints = np.maximum.accumulate(np.concatenate((np.array([start], np.int64), column)))[:-1]
    return highest


class Window:
    """One series of one attempt. Drops what it has seen by (source, position), never by step; a step that does not
    advance is counted (`not_advancing`) and not judged."""

    __slots__ = (
        "_latest",
        "_pointwise",
        "_steps",
        "_values",
        "kind",
        "last",
        "last_step",
        "measures",
        "not_advancing",
        "points",
        "repeated",
        "subject",
    )

    def __init__(self, subject: Subject, measures: Iterable[Measure] = ()) -> None:
        self.subject = subject
        self.kind = UNJUDGED
        """Windows of one kind have the same measures, and the same policies judge them."""
        self.measures = {one.key: one for one in measures}
        self._pointwise = [one for one in self.measures.values() if folds_point(one)]
        self.last: dict[str, int] = {}
        self.last_step: int | None = None
        self.points = 0
        self.repeated = 0
        self.not_advancing = 0
        self._steps, self._values = array("q"), array("d")
        """The last points: up to 128, or some more that were not cut off yet."""
        self._latest: Latest | None = None

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
        ahead = steps > _highest_before(steps, self.floor)
        if not ahead.all():
            self.not_advancing += int(ahead.size - ahead.sum())
            at, steps, values, times, when, order = _pick(ahead, at, steps, values, times, when, order)
            if not at.size:
                return None
        self.last_step = int(steps[-1])
        self.points += len(steps)
        figures = {key: one.fold(steps, values) for key, one in self.measures.items()}
        tail_steps, tail = self.recent()
        tail_steps, tail = np.concatenate((tail_steps, steps)), np.concatenate((tail, values))
        columns = Columns(self.subject, source, at, steps, values, times, when, order, figures, tail_steps, tail)
        last = Latest(self.last_step, float(values[-1]), float(times[-1]), figures, -1)
        self.keep(steps[-TAIL:].tobytes(), values[-TAIL:].tobytes(), last)
        return columns

    def take(self, source: str, position: int, step: int, value: float, time: float) -> Figures | None:
        """`extend` by one point, without arrays: what is known right after it, None when there is nothing new. Only where
        `takes_points`."""
        if position <= self.last.get(source, -1):
            self.repeated += 1
            return None
        self.last[source] = position
        if step <= self.floor:
            self.not_advancing += 1
            return None
        self.last_step = step
        self.points += 1
        rows = [one.point(step, value) for one in self._pointwise]
        self._steps.append(step)
        self._values.append(value)
        self._keep(Latest(step, value, time, rows))
        return self._named(rows)

    def _named(self, rows: Sequence[tuple[Any, ...]]) -> Figures:
        return {one.key: dict(zip(one.names, row, strict=True)) for one, row in zip(self._pointwise, rows, strict=True)}

    def _shown(self, last: Latest) -> Figures:
        """The figures as plain numbers."""
        figures, at = last.figures, last.row
        if not isinstance(figures, Mapping):
            return self._named(figures)
        if at is None:
            return figures
        return {key: {name: column[at].item() for name, column in named.items()} for key, named in figures.items()}

    @property
    def takes_points(self) -> bool:
        """Whether all its measures take points one by one."""
        return len(self._pointwise) == len(self.measures)

    @property
    def floor(self) -> int:
        """A step must be above it to be judged."""
        return LOWEST if self.last_step is None else self.last_step

    def recent(self) -> tuple[Ints, Floats]:
        """The steps and values of the last points, up to 128."""
        return np.array(self._steps[-TAIL:], np.int64), np.array(self._values[-TAIL:], np.float64)

    def keep(self, steps: bytes, values: bytes, latest: Latest) -> None:
        """Keeps the points that were folded, the last 128 or all of them: int64 and float64."""
        self._steps.frombytes(steps)
        self._values.frombytes(values)
        self._keep(latest)

    def _keep(self, latest: Latest) -> None:
        if len(self._steps) > MOST_TAIL:
            del self._steps[:-TAIL], self._values[:-TAIL]
        self._latest = latest

    def alone(self, source: str, position: int, appended: float, order: int) -> Columns:
        """The last point, which came at this place, as columns."""
        last = self._latest
        assert last is not None
        figures = {key: {name: np.array([one]) for name, one in named.items()} for key, named in self._shown(last).items()}
        steps, values = self.recent()
        return Columns(
            self.subject,
            source,
            np.array([position]),
            steps[-1:],
            values[-1:],
            np.array([last.time]),
            np.array([appended]),
            np.array([order]),
            figures,
            steps,
            values,
        )

    def latest(self, now: float, trigger: str) -> Evidence | None:
        """The evidence of the last judged point, as of `now` and for `trigger`; None before there is one."""
        last = self._latest
        if last is None:
            return None
        return Evidence(self.subject, last.step, last.value, last.time, now, trigger, self._shown(last), *self.recent())

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
            "steps": self._steps[-TAIL:].tobytes(),
            "values": self._values[-TAIL:].tobytes(),
            "measures": {key: one.dump() for key, one in self.measures.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """The state that `dump` gave; a measure that was not there then starts empty."""
        self.last = dict(state["last"])
        self.last_step = state["last_step"]
        self.points, self.repeated, self.not_advancing = state["counts"]
        self._latest = None if state["latest"] is None else Latest(*state["latest"])
        self._steps, self._values = array("q", state["steps"]), array("d", state["values"])
        for key, one in self.measures.items():
            if key in state["measures"]:
                one.load(state["measures"][key])
