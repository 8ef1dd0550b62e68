"""Attempts that have fallen silent: the timers that say so in the order of the log, and what whoever ships them has seen.

A job that a daemon (or its own thread) ships is judged by its notes: they alone tell a process that hangs from one that is
stopped, and a silent job from a daemon that was down. Of an attempt that nobody watches the log is all there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..core.events import MetricChunk, RunEvent
from ..core.silence import JudgesSilence, Silence, Watched
from ..core.window import Subject
from .attempt import Attempt
from .rules import Rule

if TYPE_CHECKING:
    from .docket import Docket

SILENCE = "silence"
"""What a timer of an attempt's silence is for."""
SAVING = ("checkpoint", "restore")
"""While the job has not answered one of these, it may be busy with it."""


class Silences:
    """Owned by the docket. `oldest` is the append time before which all is backlog, and no alert; so long after its
    `not_after` (`grace_s`) an order that has no answer expires."""

    def __init__(self, docket: Docket, grace_s: float) -> None:
        self._docket, self._grace_s = docket, grace_s
        self.oldest = -math.inf

    def heard(self, attempt: Attempt, chunk: MetricChunk, time: float, stale: bool) -> None:
        """Metrics came: a silence, if there was one, is over. `stale`: they are backlog."""
        listening, standing = attempt.listening, attempt.standing
        gaps = listening.rhythm.gaps
        if not listening.rhythm.hear(chunk, time):
            return
        listening.stale = stale
        self._begin_anew(attempt)
        for rule, _ in attempt.silence_rules if standing.latches else ():
            latch = attempt.latch(rule)
            standing.latches.pop(latch, None)
            standing.silenced.pop(latch, None)
        if attempt.alarm == math.inf or listening.rhythm.gaps is not gaps:  # else it goes off too early, and is set anew
            self.arm(attempt)

    def began(self, attempt: Attempt, event: RunEvent, time: float) -> None:
        """The attempt says that it has started. One whose start is backlog may be over: it is not waited for."""
        rhythm = attempt.listening.rhythm
        rhythm.begin(event.time)
        if min(time, event.time) >= self.oldest:
            rhythm.heard = max(rhythm.heard, time)
            self.arm(attempt)

    def alive(self, attempt: Attempt, time: float) -> None:
        """The job itself said something else."""
        rhythm = attempt.listening.rhythm
        if rhythm.heard:
            rhythm.heard = max(rhythm.heard, time)
            self._begin_anew(attempt)
            self.arm(attempt)

    def _begin_anew(self, attempt: Attempt) -> None:
        attempt.listening.quiet_s = attempt.listening.before_s = 0.0

    def noted(self, attempt: Attempt, event: RunEvent, time: float) -> None:
        """A note, maybe of whoever watches the process. What two daemons one after the other have watched adds up."""
        watched, listening = Watched.of(event.details), attempt.listening
        if watched is None or attempt.standing.record.over:
            return
        self._docket.changed.add(event.attempt)
        if watched.stopped:
            listening.rhythm.excused = True
            self._begin_anew(attempt)
            return
        if watched.quiet_s < listening.quiet_s:
            listening.before_s += listening.quiet_s
        listening.quiet_s = watched.quiet_s
        if time < self.oldest or self._saving(attempt) is not None:
            return
        for rule, deadline in self._deadlines(attempt):
            allowed_s = deadline - listening.rhythm.heard
            if deadline <= time and allowed_s <= listening.before_s + listening.quiet_s:
                self._conclude(attempt, rule, deadline, time, watched)

    # -- timers, of attempts that nobody watches -------------------------------------------------------------------

    def arm(self, attempt: Attempt) -> None:
        """Sets the attempt's timer, unless it goes off early enough: then it is set anew."""
        if attempt.standing.record.over or attempt.standing.record.said.pid or attempt.listening.stale:
            return
        self._set(attempt, min((deadline for _, deadline in self._deadlines(attempt)), default=math.inf))

    def _set(self, attempt: Attempt, deadline: float) -> None:
        if deadline < attempt.alarm and deadline != math.inf:
            attempt.alarm = deadline
            self._docket.wake(deadline, attempt.standing.record.attempt, SILENCE)

    def puts_off(self, name: str, at: float) -> bool:
        """Whether a timer that is due has nothing to say: nobody needs it any more, or it is set anew, for points have come."""
        attempt = self._docket.attempts.get(name)
        if attempt is None or attempt.alarm != at:
            return True
        record = attempt.standing.record
        deadline = min((deadline for _, deadline in self._deadlines(attempt)), default=math.inf)
        needed = not (record.over or record.said.pid or attempt.listening.stale)
        if needed and deadline <= at and at >= self.oldest:
            return False
        attempt.alarm = math.inf
        if needed and deadline > at:
            self._set(attempt, deadline)
        return True

    def due(self, name: str, at: float) -> None:
        """The timer of an attempt went off; it may have been set for another time since, or points have come."""
        if self.puts_off(name, at):
            return
        attempt = self._docket.attempts[name]
        attempt.alarm = math.inf
        saving_until = self._saving(attempt)
        if saving_until is not None and saving_until > at:
            self._set(attempt, saving_until)
            return
        for rule, deadline in self._deadlines(attempt):
            if deadline <= at:
                self._conclude(attempt, rule, deadline, at, None)
        # What was said before, and is not latched any more (a switch, another mode), is not due again: this ends.
        self._set(attempt, min((deadline for _, deadline in self._deadlines(attempt) if deadline > at), default=math.inf))

    # -- judging ---------------------------------------------------------------------------------------------------

    def _deadlines(self, attempt: Attempt) -> list[tuple[Rule, float]]:
        """When each rule has something to say of this silence; not those that have said it."""
        found = []
        rhythm, latches = attempt.listening.rhythm, attempt.standing.latches
        for rule, policy in attempt.silence_rules:
            allowed_s = policy.allows_s(rhythm)
            if allowed_s is not None and rhythm.heard:
                deadline = max(rhythm.heard + allowed_s, latches.get(attempt.latch(rule), 0.0))
                if deadline != math.inf:
                    found.append((rule, deadline))
        return found

    def _saving(self, attempt: Attempt) -> float | None:
        """Until when the job may be busy with saving or loading, None if it is not."""
        waiting = [one.not_after + self._grace_s for one in attempt.standing.pending.values() if one.action in SAVING]
        return max(waiting) if waiting else None

    def _conclude(self, attempt: Attempt, rule: Rule, deadline: float, now: float, watched: Watched | None) -> None:
        record, rhythm = attempt.standing.record, attempt.listening.rhythm
        subject = Subject(record.run, record.attempt, attempt.judged(rule), attempt.goal, record.group)
        for moment in (deadline, now):  # what a pause kept from the job may be said again when it is over
            silence = Silence(subject, rhythm, moment, now, watched)
            decision = rule.policy.at_silence(silence) if isinstance(rule.policy, JudgesSilence) else None
            if decision is not None and decision.id not in attempt.standing.known:
                self._docket.conclude(attempt, rule, decision)
                return
