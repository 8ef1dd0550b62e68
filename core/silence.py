"""How regularly an attempt speaks, and what is known of one that has fallen silent: what policies judge silence by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np

from .events import Decision, MetricChunk, decision_id
from .watched import Watched as Watched
from .window import Subject

LONGEST = 3
"""Gaps that are kept: one that came so often is a habit."""
LONG_CHUNK_S = 30.0
"""In a message that spans more than this, gaps are looked for inside; a daemon sends every second."""


class Rhythm(msgspec.Struct, array_like=True):
    """The metrics of one attempt, of all series and sources: the last point, and the longest gaps between messages.

    `heard` is the append time of the attempt's last sign of life, `born` when its newest point was born, by the job's own
    clock (0: none yet), `gaps` the longest, the longest first, `excused` that the next one is not the job's own.
    """

    source: str = ""
    position: int = -1
    heard: float = 0.0
    born: float = 0.0
    gaps: list[float] = []
    excused: bool = False
    positions: dict[str, int] = {}

    def hear(self, chunk: MetricChunk, appended: float) -> bool:
        """Takes a message of metrics in; False where all of it has been heard before."""
        source, last = chunk.source, _last_position(chunk)
        times = [one.times for one in chunk.series if one.times]
        if not times or last <= self.positions.get(source, -1):
            return False
        self.positions[source] = self.position = last
        self.source, self.heard = source, max(self.heard, appended)
        first, newest = times[0][0], times[0][-1]
        for one in times[1:]:
            first, newest = min(first, one[0]), max(newest, one[-1])
        if self.born and not self.excused:
            self._keep(first - self.born)
        if newest - first > LONG_CHUNK_S:
            densest: list[float] = max(times, key=len)
            gaps = np.diff(np.maximum.accumulate(densest))
            for gap in np.sort(gaps[gaps > (self.gaps[-1] if len(self.gaps) == LONGEST else 0.0)])[-LONGEST:].tolist():
                self._keep(gap)
        self.excused = False
        self.born = max(self.born, newest)
        return True

    def begin(self, time: float) -> None:
        """The attempt began at `time`: until its first point is a gap, too."""
        self.born = self.born or max(0.0, time)

    def _keep(self, gap: float) -> None:
        if gap > 0.0 and (len(self.gaps) < LONGEST or gap > self.gaps[-1]):
            self.gaps = sorted([*self.gaps, gap], reverse=True)[:LONGEST]

    @property
    def longest(self) -> float:
        """The longest gap, 0 where there was none."""
        return self.gaps[0] if self.gaps else 0.0

    @property
    def usual(self) -> float:
        """The longest gap that is a habit: the third longest, so that two that never come again say nothing; of fewer than
        three the longest. 0 where there was none."""
        return (self.gaps[-1] if len(self.gaps) == LONGEST else self.gaps[0]) if self.gaps else 0.0


class Listening(msgspec.Struct, array_like=True):
    """How the judge listens to one attempt. `stale`: its last metrics were backlog, and it is not known to be alive. `quiet_s`
    is what the last note says of this silence, `before_s` what notes of earlier watches do."""

    rhythm: Rhythm = msgspec.field(default_factory=Rhythm)
    stale: bool = False
    quiet_s: float = 0.0
    before_s: float = 0.0


def _last_position(chunk: MetricChunk) -> int:
    following = last = chunk.seq - 1
    for one in chunk.series:
        following += len(one.steps)
        if one.steps:
            last = max(last, following if one.at is None else chunk.seq + one.at[-1])
    return last


@dataclass(frozen=True)
class Silence:
    """All that a policy may look at of an attempt that is silent at `now` (append time). `deadline` is when it had been silent
    for as long as the policy allows; `watched` what is known of its process, None where nobody watches it."""

    subject: Subject
    rhythm: Rhythm
    deadline: float
    now: float
    watched: Watched | None = None

    @property
    def lasted_s(self) -> float:
        """How long; by the job's own clock where its last point came late onto the log."""
        heard, born = self.rhythm.heard, self.rhythm.born
        return self.now - (born if 0.0 < born < heard else heard)

    def decide(self, policy: tuple[str, int], action: str, reason: str, evidence: Mapping[str, Any]) -> Decision:
        """The decision that follows; its trigger is the last point and the deadline."""
        who, rhythm, (name, version) = self.subject, self.rhythm, policy
        trigger = f"{rhythm.source}:{rhythm.position}:{self.deadline:.3f}"
        watched = {} if self.watched is None else msgspec.to_builtins(self.watched)
        return Decision(
            id=decision_id(who.run, who.attempt, name, version, action, trigger),
            run=who.run,
            attempt=who.attempt,
            group=who.group,
            action=action,
            policy=name,
            policy_version=version,
            trigger=trigger,
            reason=reason,
            time=self.now,
            not_after=self.now,
            evidence={"series": who.series, **evidence, **watched},
        )


@runtime_checkable
class JudgesSilence(Protocol):
    """A policy that judges an attempt by what it does not say."""

    def allows_s(self, rhythm: Rhythm) -> float | None:
        """How long silence may last; None where nothing can be said yet."""

    def at_silence(self, silence: Silence) -> Decision | None: ...


def span(seconds: float) -> str:
    """A time for a sentence.

    >>> span(0.25), span(40), span(725), span(12_000), span(200_000)
    ('0.25 s', '40 s', '12 min', '3.3 h', '2.3 days')
    """
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
