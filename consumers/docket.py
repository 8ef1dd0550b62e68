"""What is decided about attempts and waits for an answer: conclusions through the gates, timers that fire in the log's order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..core.events import Decision, Mode, decision_id
from ..core.standing import LR_ACTIONS, Standing
from ..core.surroundings import Surroundings
from ..core.switches import Switch, Switches
from .answers import Answers
from .attempt import Attempt, silent_until
from .cohort import Cohorts
from .groups import Groups
from .rules import Rule
from .silences import SILENCE, Silences

EXPIRY_GRACE_S = 5.0
"""The job refuses at not_after; its answer may take this long before the daemon says expired in its stead."""
FORGET_S = 86_400.0
"""An attempt that is over is forgotten after a day without a record."""

GROUP_LIMITS = ("limits.prunes_per_hour", "limits.never_last_of_group", "limits.min_peer_progress")
"""A refusal by one of these is told once: it may last for hours, and is looked at again each minute."""
KEEP_BEST = "keep-best"
"""Stands among the latches that a pause has set for an order that it kept from the job."""

BY_SWITCH = ("paused:", "hold:")
"""How the reason of a gate begins that a person's switch has shut."""

Gates = Callable[[Decision, Standing, Mode, Surroundings], Decision]


class Docket:
    """The attempts that are judged, what was decided about them, and the timers. Owned by the judge."""

    def __init__(self, gates: Gates, counters: Counter[str]) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.gates = gates
        self.counters = counters
        self.answers = Answers(counters)
        self.cohorts = Cohorts()
        self.groups = Groups()
        self.silences = Silences(self, EXPIRY_GRACE_S)
        self.changed: set[str] = set()
        self.switches = Switches()
        self.when_due: Callable[[int, float], object] = self.switches.ended
        """Called with a partition and the deadline that it asked to be reminded of."""
        self._timers: list[tuple[float, str, str]] = []

    def conclude(self, attempt: Attempt, rule: Rule, decision: Decision, progress: float | None = None) -> Decision | None:
        """Takes what a policy concluded through the gates; what came out, or None where it was known. `progress`: see
        Surroundings."""
        standing = attempt.standing
        if decision.id in standing.known:
            return None
        around = self._around(attempt, decision, progress)
        passed = self.gates(decision, standing, rule.mode, around)
        if decision.action in ("prune", "alert"):
            latch, before = attempt.latch(rule), standing.limited.get(attempt.latch(rule))
            self._latch(standing, latch, passed, _switched(passed, around))
            if before is not None and standing.limited.get(latch) == before:  # it is told once
                self.changed.add(decision.attempt)
                return None
        self._emit(passed, attempt)
        return passed

    def _around(self, attempt: Attempt, decision: Decision, progress: float | None = None) -> Surroundings:
        paused = self.switches.over(attempt.partition, "pause", decision.run, decision.time)
        held = self.switches.over(attempt.partition, "hold", decision.run, decision.time)
        if decision.action != "prune":
            return Surroundings(paused, held)
        prunes = self.groups.prunes(attempt, decision.time)
        return Surroundings(paused, held, self.groups.company(attempt), prunes, progress)

    def relatch(self, attempt: Attempt, name: str, passed: Decision) -> None:
        """Silences a policy as its decision says that the log tells of, unless the switch that had kept it is over."""
        switch = _switched(passed, self._around(attempt, passed))
        if switch is not None or not (passed.refused_by or "").startswith(BY_SWITCH):
            self._latch(attempt.standing, name, passed, switch)

    def rearm_latches(self, attempt: Attempt) -> None:
        """Its policies may speak again at the next point, but for what a person switched off, and the silence of now."""
        silences = {attempt.latch(rule) for rule, _ in attempt.silence_rules}
        kept = silences | attempt.standing.silenced.keys()
        for latch in attempt.standing.latches.keys() - kept:
            del attempt.standing.latches[latch]
        self.changed.add(attempt.standing.record.attempt)

    def _latch(self, standing: Standing, name: str, passed: Decision, switch: Switch | None) -> None:
        """Silences the policy of a final decision: until the switch ends that had kept it from the job, else as long as
        `silent_until` says."""
        standing.limited.pop(name, None)
        if limit := _group_limit(passed):
            standing.limited[name] = limit
        if switch is None:
            standing.latches[name] = silent_until(passed)
        else:
            standing.latches[name], standing.silenced[name] = switch.until, switch.kind

    def propose(
        self,
        attempt: Attempt,
        policy: tuple[str, int],
        change: tuple[str, dict[str, Any]],
        reason: str,
        trigger: str,
        time: float,
        mode: Mode,
        by: str | None = None,
    ) -> None:
        """A decision that no point triggered, through the same gates."""
        record, (name, version), (action, params) = attempt.standing.record, policy, change
        identity = decision_id(record.run, record.attempt, name, version, action, trigger)
        if identity in attempt.standing.known:
            return
        decision = Decision(
            identity,
            record.run,
            record.attempt,
            action,
            name,
            trigger,
            reason,
            time,
            time,
            policy_version=version,
            params=params,
            group=record.group,
            by=by,
        )
        around = self._around(attempt, decision)
        passed = self.gates(decision, attempt.standing, mode, around)
        if action == KEEP_BEST and _switched(passed, around) is not None:
            attempt.standing.silenced[KEEP_BEST] = "pause"
        self._emit(passed, attempt)

    def _emit(self, decision: Decision, attempt: Attempt) -> None:
        self.know(decision, attempt)
        if decision.status == "pending":
            self.await_answer(decision, attempt)
        self.changed.add(decision.attempt)
        self.answers.decision(decision)

    def know(self, decision: Decision, attempt: Attempt) -> None:
        """It has been decided: a repetition adds nothing, and a prune that a policy sent counts in its group."""
        attempt.standing.known.add(decision.id)
        if decision.status == "pending" and decision.action == "prune" and decision.by is None:
            self.groups.pruned(attempt, decision.time)

    def await_answer(self, decision: Decision, attempt: Attempt) -> None:
        """The decision is pending until its job, or a timer, answers."""
        standing = attempt.standing
        if decision.action in LR_ACTIONS:  # a person's change supersedes the one that waits
            for waiting in [one for one in standing.pending.values() if one.action in LR_ACTIONS]:
                self.answers.ack(waiting, "refused", "superseded by a later change of the learning rate", decision.time)
                del standing.pending[waiting.id]
        standing.pending[decision.id] = decision
        heapq.heappush(self._timers, (decision.not_after + EXPIRY_GRACE_S, decision.attempt, decision.id))

    # -- timers ----------------------------------------------------------------------------------------------------

    def forget_later(self, attempt: str, time: float) -> None:
        """The attempt was over, or still someone's peer, at `time`."""
        self.attempts[attempt].forget_at = time + FORGET_S
        self.changed.add(attempt)
        heapq.heappush(self._timers, (time + FORGET_S, attempt, ""))

    def forget(self, attempt: str) -> None:
        """The attempt is over for long, or another daemon's now."""
        self.groups.leave(self.attempts.pop(attempt))
        self.cohorts.forget(attempt)

    def wake(self, time: float, attempt: str, what: str) -> None:
        """Sets a timer of an attempt."""
        heapq.heappush(self._timers, (time, attempt, what))

    def is_due(self, time: float) -> bool:
        """Whether a timer has something to say at or before `time`."""
        while self._timers and self._timers[0][0] <= time:
            timer = heapq.heappop(self._timers)
            if timer[2] != SILENCE or not self.silences.puts_off(timer[1], timer[0]):
                heapq.heappush(self._timers, timer)
                return True
        return False

    def remind(self, time: float, partition: int) -> None:
        """Calls `when_due` for the partition at `time`; no attempt has an empty name."""
        heapq.heappush(self._timers, (time, "", str(partition)))

    def take_switches(self, partition: int, body: bytes) -> None:
        """The switches of a partition as they were saved, with their timers."""
        self.switches.load(partition, body)
        for time in self.switches.ends(partition):
            self.remind(time, partition)

    def rearm(self, attempt: Attempt) -> None:
        """Sets the timers of an attempt that was loaded, and knows it among its group."""
        self.groups.join(attempt)
        name, record = attempt.standing.record.attempt, attempt.standing.record
        for decision in attempt.standing.pending.values():
            heapq.heappush(self._timers, (decision.not_after + EXPIRY_GRACE_S, name, decision.id))
        if record.over:
            heapq.heappush(self._timers, (attempt.forget_at or (record.ended or 0.0) + FORGET_S, name, ""))
        self.silences.arm(attempt)

    def clear(self) -> None:
        """Forgets everything but the counters."""
        self.attempts.clear()
        self.cohorts.clear()
        self.groups.clear()
        self.switches.clear()
        self.changed.clear()
        self.answers.take()
        self._timers = []

    def fire(self, until: float) -> None:
        """Fires the timers due at or before `until`, by (deadline, attempt)."""
        while self._timers and self._timers[0][0] <= until:
            deadline, name, what = heapq.heappop(self._timers)
            if not name:
                self.when_due(int(what), deadline)
            elif what == SILENCE:
                self.silences.due(name, deadline)
            elif what:
                self._expire(name, what, deadline)
            elif name in self.attempts and self.cohorts.has_company(name, self.attempts):
                self.forget_later(name, deadline)
            elif name in self.attempts:
                self.forget(name)
                self.changed.add(name)

    def _expire(self, name: str, identity: str, deadline: float) -> None:
        attempt = self.attempts.get(name)
        decision = attempt.standing.pending.pop(identity, None) if attempt else None
        if decision is not None:
            self.changed.add(name)
            self.counters["decisions_expired"] += 1
            self.answers.ack(decision, "expired", "the job did not answer in time", deadline)


def _switched(passed: Decision, around: Surroundings) -> Switch | None:
    """The switch that kept the decision from its job."""
    word = (passed.refused_by or "").partition(":")[0]
    return {"paused": around.paused, "hold": around.held}.get(word)


def _group_limit(passed: Decision) -> str:
    """The limit on a group that refused a prune; "" if none did."""
    limit = (passed.refused_by or "").rpartition("(")[2].rstrip(")")
    return limit if passed.status == "refused" and passed.action == "prune" and limit in GROUP_LIMITS else ""
