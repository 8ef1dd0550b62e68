"""Records of runs and control, folded one by one: what jobs say of themselves, their answers, and what people ask for."""

from __future__ import annotations

from typing import Any

import msgspec

from ..bus.claims import Claims
from ..core.best import Best
from ..core.errors import CorruptData
from ..core.events import Ack, Claim, Decision, MetricChunk, Notice, Request, RunEvent, Started
from ..core.intent import LrIntent
from ..core.ports import Record
from ..core.run import RunRecord, fold
from ..core.standing import INHERITED, LR_ACTIONS, Standing
from .attempt import Attempt, Rules
from .docket import KEEP_BEST, Docket
from .rules import JudgesTheEnd, KeepsBest
from .switchboard import Switchboard

MAX_REQUEST_BYTES = 64 * 1024
"""A decision carries what was asked for and must fit into a body itself: one that does not would stop the outbox for good."""


class Cuts:
    """Folds what is no metric. `rules` and `primary` are what a new attempt is judged by."""

    def __init__(self, docket: Docket, rules: Rules, primary: str) -> None:
        self.claims = Claims()
        self.rules, self.primary = rules, primary
        self._docket, self._silences = docket, docket.silences
        self._answers = docket.answers
        self._switchboard = Switchboard(docket, self._order_keep_best)

    def attempt(self, event: MetricChunk | RunEvent, time: float, partition: int) -> Attempt:
        """The attempt that the event is about; one that nobody has announced can be watched, not steered."""
        attempt = self._docket.attempts.get(event.attempt)
        if attempt is None:
            record = RunRecord(event.run, event.attempt, event.group, started=time, said=Started(mode="observe"))
            attempt = self._docket.attempts[event.attempt] = Attempt(Standing(record), self.rules, self.primary)
            attempt.partition = partition
            self._docket.groups.join(attempt)
        self._docket.changed.add(event.attempt)
        return attempt

    def current(self, run: str) -> Attempt | None:
        """The newest attempt of a run, a live one first (attempts are ULIDs: they sort by their start)."""
        own = [one for one in self._docket.attempts.values() if one.standing.record.run == run]
        return max(own, key=lambda one: (not one.standing.record.over, one.standing.record.attempt), default=None)

    def fold(self, event: Any, record: Record) -> None:
        """Folds one record that is no chunk of metrics on its topic."""
        match event:
            case RunEvent():
                self._fold_run(event, record.time, record.partition)
            case Ack():
                self._fold_ack(event, record.time)
            case Request() if len(record.body) > MAX_REQUEST_BYTES:
                error = f"a request of {len(record.body)} bytes is over the limit of {MAX_REQUEST_BYTES}"
                self._answers.dead_letter(record, CorruptData(error, "say it in fewer words"))
            case Request() if self._switchboard.takes(event):
                self._switchboard.fold(event, record)
            case Request():
                self._fold_request(event, record.time)
            case Decision():
                self._fold_own(event, record)
            case Claim():
                self.claims.hear(event, record.partition)
            case MetricChunk() | Notice():
                wrong = f"a {type(event).__name__} does not belong on {record.topic}"
                self._answers.dead_letter(record, CorruptData(wrong, "publish it to its own topic"))
            case _:
                self._docket.counters["misplaced"] += 1

    def _fold_run(self, event: RunEvent, time: float, partition: int) -> None:
        attempt = self.attempt(event, time, partition)
        standing = attempt.standing
        before = standing.record
        standing.record = fold(before, event)
        if event.event == "note":
            self._silences.noted(attempt, event, time)
        if standing.record == before:
            return
        self._docket.groups.join(attempt)
        if event.event in ("started", "restored"):
            self._silences.alive(attempt, time)
        if event.event == "started":
            attempt.settle()
            self._silences.began(attempt, event, time)
            if min(time, event.time) < self._silences.oldest:
                attempt.greeting = event.seq
            else:
                self.greet(attempt, event.seq, time)
        elif event.event == "restored":
            for window in attempt.windows.values():
                window.new_segment()
        elif standing.record.over and not before.over:
            self._end(attempt, event, time)

    def greet(self, attempt: Attempt, position: int, time: float) -> None:
        """What a job gets that has started at `position`. One that is backlog is waited for: it may be over."""
        attempt.greeting = None
        self._inherit(attempt, f"started:{position}", time)
        self._order_keep_best(attempt, f"started:{position}", time)

    def _inherit(self, attempt: Attempt, trigger: str, time: float) -> None:
        """A learning rate that was changed stays changed in an attempt that names its parent, and only there."""
        standing = attempt.standing
        parent = self._docket.attempts.get(standing.record.said.parent or "")
        change = standing.inherited(parent.standing if parent is not None else None)
        if change is not None:
            reason = f"attempt {standing.record.said.parent}, which this one goes on from, ended with it"
            self._docket.propose(attempt, (INHERITED, 1), change, reason, trigger, time, mode="act")

    def find_best(self, attempt: Attempt, chunk: MetricChunk, time: float) -> None:
        """The judged series is logged under another name than was ordered: the best of its first points, whose weights are
        gone already, is what those that are kept must beat."""
        points, positions = next(one for one in chunk.positions([attempt.monitor]) if one[1])
        best = Best(attempt.goal)
        for step, value in zip(points.steps, points.values, strict=True):
            best.offer(step, float(value))
        known = {} if best.best is None else {"best": best.best, "step": best.step}
        self._order_keep_best(attempt, f"{chunk.source}:{positions[0]}", time, known)

    def _order_keep_best(self, attempt: Attempt, trigger: str, time: float, known: dict[str, Any] | None = None) -> None:
        """Best weights cannot be caught by a message that arrives steps later: the order stands before the first point."""
        said = attempt.standing.record.said
        for rule in attempt.rules:
            params = rule.policy.standing_order(attempt.judged(rule), attempt.goal) if isinstance(rule.policy, KeepsBest) else None
            if params is None or (said.keeps_best and known is None) or rule.mode != "act" or "restore" not in said.allow:
                continue
            reason = f"{rule.policy.name} restores the best weights by {params['series']} when it ends the run"
            policy = (rule.policy.name, rule.policy.version)
            self._docket.propose(attempt, policy, (KEEP_BEST, params | (known or {})), reason, trigger, time, rule.mode)
            return

    def _end(self, attempt: Attempt, event: RunEvent, time: float) -> None:
        """A run that ended in a backlog is not judged: it is over for long."""
        standing = attempt.standing
        old = attempt.listening.stale or min(time, event.time) < self._silences.oldest
        for rule in [] if old else attempt.rules:
            window = attempt.windows.get(attempt.judged(rule))
            seen = window.latest(time, f"ended:{event.seq}") if window is not None else None
            decision = rule.policy.at_end(seen) if seen is not None and isinstance(rule.policy, JudgesTheEnd) else None
            if decision is not None:
                self._docket.conclude(attempt, rule, decision)
        for decision in standing.pending.values():
            self._answers.ack(decision, "refused", f"the attempt is over ({standing.record.state})", time)
        standing.pending.clear()
        attempt.greeting = None
        attempt.settle()
        self._docket.forget_later(event.attempt, time)

    def _fold_ack(self, ack: Ack, time: float) -> None:
        attempt = self._docket.attempts.get(ack.attempt)
        decision = attempt.standing.pending.pop(ack.id, None) if attempt else None
        if attempt is None or decision is None:
            return
        self._docket.changed.add(ack.attempt)
        if ack.by == "job":
            self._silences.alive(attempt, time)
        self._docket.counters[f"acks_{ack.status}"] += 1
        if ack.status == "applied" and decision.action in LR_ACTIONS:
            attempt.standing.intent = msgspec.convert(decision.params["intent"], LrIntent)

    def _fold_request(self, request: Request, time: float) -> None:
        attempt = self._docket.attempts.get(request.attempt or "") or self.current(request.run)
        if attempt is None:
            self._docket.counters["requests_unknown_run"] += 1
            self._answers.notice("request", f"{request.by} asked for {request.action} of {request.run}: not known here", time)
            return
        reason = request.reason or f"{request.by} asked for it"
        change = (request.action, request.params)
        self._docket.propose(attempt, ("person", 1), change, reason, request.id, time, mode="act", by=request.by)

    def _fold_own(self, decision: Decision, record: Record) -> None:
        """The judge's own decisions come back on control; after a lost state they tell what was decided already. One behind
        another daemon's claim was sent by who had lost the partition: no job obeys it."""
        attempt, time = self._docket.attempts.get(decision.attempt), record.time
        if decision.epoch < (self.claims.epoch(record.partition) or 0) and decision.status == "pending":
            self._docket.counters["decisions_stale"] += 1
            if attempt is None or decision.id not in attempt.standing.known:  # else it was sent again under the new epoch
                self._answers.ack(decision, "refused", "stale: another daemon had taken the partition over", time)
            return
        if attempt is None or decision.id in attempt.standing.known:
            return
        standing = attempt.standing
        self._docket.know(decision, attempt)
        self._docket.changed.add(decision.attempt)
        if decision.action in ("prune", "alert"):
            self._docket.relatch(attempt, f"{decision.policy}/{decision.evidence.get('series', '')}", decision)
        if decision.status == "pending" and decision.not_after > time and not standing.record.over:
            self._docket.await_answer(decision, attempt)
