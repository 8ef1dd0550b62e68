"""One attempt as the judge sees it: its standing, the windows of its judged series, the last point of every series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..core.events import Decision, Goal, MetricChunk
from ..core.run import RunRecord
from ..core.standing import FOREVER, Standing
from ..core.window import Subject, Window
from .rules import Rule, monitored_goal

Rules = Callable[[RunRecord], Sequence[Rule]]
RETRY_REFUSED_S = 60.0
"""A final decision that a limit refused may be concluded again this much later."""


class Last(msgspec.Struct, array_like=True):
    """The last point of a series, and how many there were."""

    step: int
    value: float
    time: float
    count: int


class Attempt:
    """Mutable, owned by the judge. `primary` is the series that is judged when the job names none."""

    def __init__(self, standing: Standing, rules: Rules, primary: str) -> None:
        self.standing = standing
        self.series: dict[str, Last] = {}
        self.windows: dict[str, Window] = {}
        self.rules: list[Rule] = []
        self.goal: Goal = "min"
        self.partition = 0
        self.folded: Mapping[str, int] = {}
        """For each topic the offset before which it is in here already, as it was taken over."""
        self._rules = rules
        self._primary = primary
        self.settle()

    @property
    def monitor(self) -> str:
        """The series that rules without a series of their own judge."""
        return self.standing.record.said.monitor or self._primary

    def judged(self, rule: Rule) -> str:
        """The series that the rule judges here."""
        return rule.series or self.monitor

    def latch(self, rule: Rule) -> str:
        """What the latch of a rule is called here."""
        return f"{rule.policy.name}/{self.judged(rule)}"

    def settle(self) -> None:
        """Takes the rules that fit what the job said; windows of series that stay judged go on."""
        record = self.standing.record
        if record.over:
            self.rules, self.windows = [], {}
            return
        self.rules = list(self._rules(record))
        self.goal = monitored_goal(self.rules, record.said.goal)
        wanted: dict[str, list[Rule]] = {}
        for rule in self.rules:
            wanted.setdefault(self.judged(rule), []).append(rule)
        before, self.windows = self.windows, {}
        for series, rules in wanted.items():
            subject = Subject(record.run, record.attempt, series, self.goal if series == self.monitor else "min", record.group)
            window = Window(subject, [measure for rule in rules for measure in rule.policy.measures(subject)])
            if series in before:
                window.load(before[series].dump())
            self.windows[series] = window

    def adopt(self, rules: Rules, primary: str) -> list[str]:
        """Takes new rules; the latches of those whose mode is another one now."""
        before = {self.latch(rule): rule.mode for rule in self.rules}
        self._rules, self._primary = rules, primary
        self.settle()
        after = {self.latch(rule): rule.mode for rule in self.rules}
        return [latch for latch, mode in after.items() if before.get(latch, mode) != mode]

    def note(self, chunk: MetricChunk) -> None:
        """Keeps the last point of each series of the chunk."""
        for one in chunk.series:
            if not one.steps:
                continue
            last = self.series.get(one.name)
            value, count = float(one.values[-1]), len(one.steps)
            if last is None:
                self.series[one.name] = Last(one.steps[-1], value, one.times[-1], count)
            else:
                last.step, last.value, last.time, last.count = one.steps[-1], value, one.times[-1], last.count + count

    def dump(self) -> bytes:
        """The state as msgpack."""
        windows = {series: window.dump() for series, window in self.windows.items()}
        return msgspec.msgpack.encode({"standing": self.standing.dump(), "series": self.series, "windows": windows})

    @classmethod
    def load(cls, body: bytes, rules: Rules, primary: str) -> Attempt:
        """The state that `dump` gave."""
        plain: dict[str, Any] = msgspec.msgpack.decode(body)
        attempt = cls(Standing.load(plain["standing"]), rules, primary)
        attempt.series = msgspec.convert(plain["series"], dict[str, Last])
        for series, window in attempt.windows.items():
            if series in plain["windows"]:
                window.load(plain["windows"][series])
        return attempt


def silent_until(passed: Decision) -> float:
    """How long the policy of a final decision says no more: for good, but where it was refused only for the time being."""
    limited = passed.status == "refused" and (passed.refused_by or "").startswith(("limit", "pending"))
    return passed.time + RETRY_REFUSED_S if limited else FOREVER
