"""One attempt as the judge sees it: its standing, the windows of its judged series, the last point of every series."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..core.events import Decision, Goal, MetricChunk
from ..core.ports import ScreensPoint
from ..core.rungs import RungMeasure
from ..core.silence import JudgesSilence, Listening
from ..core.standing import FOREVER, Standing
from ..core.window import UNJUDGED, Subject, Window
from .rules import Rule
from .scope import Rules as Rules
from .scope import Scope, scope_of

RETRY_REFUSED_S = 60.0
"""A final decision that a limit refused may be concluded again this much later."""


class Last(msgspec.Struct, array_like=True):
    """The last point of a series, and how many there were."""

    step: int
    value: float
    time: float
    count: int


class Found(msgspec.Struct, array_like=True):
    """Under which name a job logs a series that is wanted, and when its first point was born (NaN: earlier than asked)."""

    series: str
    born: float


class Judging(NamedTuple):
    """How a series is judged: the rules, with their numbers among the attempt's (`screens` are their policies where all of them
    screen single points), the window that they look at, and of it what is compared with peers."""

    rules: Sequence[tuple[int, Rule]]
    screens: Sequence[ScreensPoint] | None
    window: Window
    curve: RungMeasure | None

    @classmethod
    def by(cls, rules: Sequence[tuple[int, Rule]], window: Window) -> Judging:
        screens = [rule.screens_point for _, rule in rules]
        all_do = None if None in screens else [one for one in screens if one is not None]
        return cls(rules, all_do, window, _curve_of(window))

    def given_up(self) -> Judging:
        """By no rule any more."""
        self.window.kind = UNJUDGED
        return Judging((), (), self.window, self.curve)


class Attempt:
    """Mutable, owned by the judge. `primary` is the series that is judged when the job names none."""

    def __init__(self, standing: Standing, rules: Rules, primary: str) -> None:
        self.standing = standing
        self.series: dict[str, Last] = {}
        self.windows: dict[str, Window] = {}
        self.rules: list[Rule] = []
        self.silence_rules: list[tuple[Rule, JudgesSilence]] = []
        """Those that judge silence, with their policies as such."""
        self.judging: dict[str, Judging] = {}
        """How each series of `windows` is judged."""
        self.listening = Listening()
        self.alarm = math.inf
        """Append time at which the timer of its silence goes off."""
        self.greeting: int | None = None
        """Position of a start that came as backlog, and is answered when the attempt is known to be alive."""
        self.goal: Goal = "min"
        self.found: dict[str, Found] = {}
        """By the name that is wanted. What was found stays found."""
        self.partition = 0
        self.forget_at = 0.0
        """Append time from which an attempt that is over, and no one's peer, is forgotten."""
        self.folded: Mapping[str, int] = {}
        """For each topic the offset before which it is in here already, as it was taken over."""
        self.scope = Scope((), primary)
        self._rules = rules
        self._primary = primary
        self._curves: dict[str, RungMeasure] = {}
        self.settle()

    @property
    def monitor(self) -> str:
        """The series that rules without a series of their own judge, as the job calls it."""
        return self.named(self.scope.monitor)

    def named(self, wanted: str) -> str:
        """What the job calls the series that is wanted; the same name until it logs one of its aliases."""
        found = self.found.get(wanted)
        return wanted if found is None else found.series

    def canonical(self, series: str) -> str:
        """The name under which the job's series is compared with those of other runs."""
        return self.scope.aliases.canonical(series)

    def judged(self, rule: Rule) -> str:
        """The series that the rule judges here."""
        return self.named(rule.series or self.scope.monitor)

    def latch(self, rule: Rule) -> str:
        """What the latch of a rule is called here."""
        return f"{rule.policy.name}/{self.judged(rule)}"

    def curves(self) -> dict[str, RungMeasure]:
        """The series that are compared with those of peers; they stay when the attempt is over."""
        measures = {series: one.curve for series, one in self.judging.items() if one.curve is not None}
        return self._curves | measures if self.standing.record.over else measures

    def curve(self, series: str) -> RungMeasure | None:
        """The one of a series."""
        found = self.judging.get(series)
        return self._curves.get(series) if found is None else found.curve

    def settle(self) -> None:
        """Takes the rules that fit what the job said; windows of series that stay judged go on."""
        record = self.standing.record
        self.scope = scope_of(self._rules, record, self._primary)
        if record.over:
            self._curves = self.curves()
            for curve in self._curves.values():
                curve.finish()
            self.rules, self.silence_rules, self.windows, self.judging = [], [], {}, {}
            return
        self.rules, self.goal = list(self.scope.rules), self.scope.goal
        self.silence_rules = [(rule, rule.silence) for rule in self.rules if rule.silence is not None]
        for name in self._wanted():
            series = self.scope.aliases.find(name, self.series)
            if series is not None:
                self.found.setdefault(name, Found(series, math.nan))
        wanted: dict[str, list[tuple[int, Rule]]] = {}
        for number, rule in enumerate(self.rules):
            wanted.setdefault(self.judged(rule), []).append((number, rule))
        before, self.windows, self.judging = self.windows, {}, {}
        for series, numbered in wanted.items():
            rules = [rule for _, rule in numbered]
            subject = Subject(record.run, record.attempt, series, self.goal if series == self.monitor else "min", record.group)
            window = Window(subject, [measure for rule in rules for measure in rule.policy.measures(subject)])
            window.kind = sys.intern(f"{subject.goal} {[rule.policy for rule in rules]!r} {list(window.measures)!r}")
            if series in before:
                window.load(before[series].dump())
            self.windows[series], self.judging[series] = window, Judging.by(numbered, window)

    def adopt(self, rules: Rules, primary: str) -> list[str]:
        """Takes new rules; the latches of those whose mode is another one now."""
        before = {self.latch(rule): rule.mode for rule in self.rules}
        self._rules, self._primary = rules, primary
        self.settle()
        after = {self.latch(rule): rule.mode for rule in self.rules}
        return [latch for latch, mode in after.items() if before.get(latch, mode) != mode]

    def note(self, chunk: MetricChunk) -> bool:
        """Keeps the last point of each series of the chunk; whether another series is the monitored one now."""
        fresh = []
        for one in chunk.series:
            if not one.steps:
                continue
            last = self.series.get(one.name)
            value, count = float(one.values[-1]), len(one.steps)
            if last is None:
                self.series[one.name] = Last(one.steps[-1], value, one.times[-1], count)
                fresh.append(one.name)
            else:
                last.step, last.value, last.time, last.count = one.steps[-1], value, one.times[-1], last.count + count
        if not fresh:
            return False
        before = self.monitor
        first = sorted((positions[0], one.name, one.times[0]) for one, positions in chunk.positions(fresh) if positions)
        self._meet([(series, born) for _, series, born in first])
        return self.monitor != before

    def _meet(self, fresh: list[tuple[str, float]]) -> None:
        """Series that are logged for the first time (name, time of birth; in their order) may be what rules want under
        another name. The first is chosen; of those in one log() call the exact name, then the list's order."""
        windows, judging, given_up = self.windows, self.judging, False
        called = {wanted: self.named(wanted) for wanted in self._wanted()}
        for wanted in called:
            ranked = [(rank, *one) for one in fresh if (rank := self.scope.aliases.rank(wanted, one[0])) is not None]
            known = self.found.get(wanted)
            if not ranked:
                continue
            born = ranked[0][2] if known is None else known.born
            best = min((one for one in ranked if one[2] == born), default=None)
            if best is not None and (known is None or best[0] < (self.scope.aliases.rank(wanted, known.series) or 0)):
                self.found[wanted] = Found(best[1], born)
                given_up |= known is not None
        if any(self.named(wanted) != name for wanted, name in called.items()):
            self.settle()
            if given_up:  # points of it may be gathered already
                self.judging = {series: one.given_up() for series, one in judging.items()} | self.judging
                self.windows = windows | self.windows

    def _wanted(self) -> list[str]:
        """The series that the rules want, as persons call them."""
        return list(dict.fromkeys(rule.series or self.scope.monitor for rule in self.rules))

    def dump(self) -> bytes:
        """The state as msgpack."""
        windows = {series: window.dump() for series, window in self.windows.items()}
        curves = {series: [one.goal, one.dump()] for series, one in self._curves.items()}
        plain = {
            "standing": self.standing.dump(),
            "series": self.series,
            "windows": windows,
            "found": self.found,
            "curves": curves,
            "forget_at": self.forget_at,
            "listening": self.listening,
            "greeting": self.greeting,
            "partition": self.partition,
        }
        return msgspec.msgpack.encode(plain)

    @classmethod
    def load(cls, body: bytes, rules: Rules, primary: str) -> Attempt:
        """The state that `dump` gave."""
        plain: dict[str, Any] = msgspec.msgpack.decode(body)
        attempt = cls(Standing.load(plain["standing"]), rules, primary)
        attempt.partition = plain.get("partition", 0)
        attempt.series = msgspec.convert(plain["series"], dict[str, Last])
        attempt.found = msgspec.convert(plain.get("found", {}), dict[str, Found])
        if any(series not in attempt.windows for series in map(attempt.named, attempt._wanted())):
            attempt.settle()
        for series, window in attempt.windows.items():
            if series in plain["windows"]:
                window.load(plain["windows"][series])
        attempt.forget_at = plain.get("forget_at", 0.0)
        attempt.listening = msgspec.convert(plain.get("listening", []), Listening)
        attempt.greeting = plain.get("greeting")
        for series, (goal, state) in plain.get("curves", {}).items():
            attempt._curves[series] = RungMeasure(goal)
            attempt._curves[series].load(state)
        return attempt


def _curve_of(window: Window) -> RungMeasure | None:
    found = window.measures.get(RungMeasure.key_of(window.subject.goal))
    return found if isinstance(found, RungMeasure) else None


def silent_until(passed: Decision) -> float:
    """How long the policy of a final decision says no more: for good, but where it was refused only for the time being."""
    limited = passed.status == "refused" and (passed.refused_by or "").startswith(("limit", "pending"))
    return passed.time + RETRY_REFUSED_S if limited else FOREVER
