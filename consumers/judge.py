"""The judge: one consumer for all that decides about a run, over shared windows, in the one order of the log.

Metrics fold in offset order; a record of runs or control is a cut: what came before is judged, then it is folded. Time
enters as timers: before a record with append time a is folded, every timer due at or before a fires. So the decisions, their
ids and their order depend on the log alone, and not on how it was cut into batches.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..bus.claims import Claims
from ..core.errors import CorruptData
from ..core.events import (
    Ack,
    Claim,
    Decision,
    MetricChunk,
    Mode,
    Notice,
    Request,
    RunEvent,
    Started,
    decision_id,
    decode,
)
from ..core.intent import LrIntent
from ..core.ports import CONTROL, METRICS, RUNS, Message, Record
from ..core.run import RunRecord, fold
from ..core.standing import INHERITED, LR_ACTIONS, Standing
from ..core.window import Columns, Window
from .answers import Answers
from .attempt import Attempt, Rules, silent_until
from .backlog import Backlog
from .candidates import Candidates, Heap, judge_in_order
from .rules import JudgesTheEnd, KeepsBest, Rule
from .stretch import Stretch

EXPIRY_GRACE_S = 5.0
"""The job refuses at not_after; its answer may take this long before the daemon says expired in its stead."""
MAX_REQUEST_BYTES = 64 * 1024
"""A decision carries what was asked for and must fit into a body itself: one that does not would stop the outbox for good."""
FORGET_S = 86_400.0
"""An attempt that is over is forgotten after a day without a record."""

Gates = Callable[[Decision, Standing, Mode], Decision]


class Judge:
    """Folds metrics, runs and control; answers with decisions, acks of the gate, notices and dead letters."""

    name = "judge"
    topics: tuple[str, ...] = (METRICS, RUNS, CONTROL)

    def __init__(self, rules: Rules, gates: Gates, primary: str = "val_loss", not_after_s: float = 600.0) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.counters: Counter[str] = Counter()
        self.claims = Claims()
        self._rules, self._gates, self._primary, self._not_after_s = rules, gates, primary, not_after_s
        self._timers: list[tuple[float, str, str]] = []
        self._changed: set[str] = set()
        self._backlog = Backlog()
        self._answers = Answers(self.counters)
        self._next: tuple[Rules, Gates, str, float] | None = None

    def adopt(self, rules: Rules, gates: Gates, primary: str, not_after_s: float) -> None:
        """Takes a new configuration before the next batch (called from any thread)."""
        self._next = (rules, gates, primary, not_after_s)

    def _adopt(self) -> None:
        """Windows of series that stay judged go on; a policy whose mode changed may speak again."""
        if self._next is None:
            return
        (self._rules, self._gates, self._primary, self._not_after_s), self._next = self._next, None
        for name, attempt in self.attempts.items():
            for latch in attempt.adopt(self._rules, self._primary):
                attempt.standing.latches.pop(latch, None)
            self._changed.add(name)

    # -- folding ---------------------------------------------------------------------------------------------------

    def handle(self, records: Sequence[Record], now: float) -> list[Message]:
        """Folds records in their order; `now` (wall clock) only tells what is stale and, when nothing came, what is due."""
        self._adopt()
        stretch = Stretch()
        for record in records:
            try:
                event = decode(record.body)
            except CorruptData as error:
                self._answers.dead_letter(record, error)
                continue
            if self._is_folded(event, record):
                continue
            if isinstance(event, MetricChunk) and record.topic == METRICS:
                if Backlog.holds(event, record, now - self._not_after_s):
                    self._judge(stretch)
                    self._warm(event, record)
                else:
                    self._end_of_stale(record.time)
                    self._gather(stretch, event, record)
            else:
                self._judge(stretch)
                self._fire(record.time)
                self._fold(event, record)
        self._judge(stretch)
        if not records:
            self._fire(now)
            self._end_of_stale(now)
        return self._answers.take()

    def _is_folded(self, event: Any, record: Record) -> bool:
        """An attempt that was taken over may be ahead of its partition's cursor."""
        attempt = self.attempts.get(getattr(event, "attempt", None) or "")
        return attempt is not None and record.offset < attempt.folded.get(record.topic, 0)

    def _warm(self, chunk: MetricChunk, record: Record) -> None:
        """Backlog older than a decision may be: it warms the windows and decides nothing."""
        attempt = self._attempt(chunk, record.time, record.partition)
        attempt.note(chunk)
        self._backlog.points[chunk.attempt] += chunk.points()
        for one, positions in chunk.positions(attempt.windows):
            if one.steps:
                self._extend(attempt.windows[one.name], chunk.source, positions, (one.steps, one.values, one.times), record.time)

    def _end_of_stale(self, time: float) -> None:
        text = self._backlog.end(self._not_after_s)
        if text:
            self._answers.notice("backlog", text, time, level="info")

    def _attempt(self, event: MetricChunk | RunEvent, time: float, partition: int) -> Attempt:
        attempt = self.attempts.get(event.attempt)
        if attempt is None:
            # Nobody said `started`: such an attempt can be watched, not steered.
            record = RunRecord(event.run, event.attempt, event.group, started=time, said=Started(mode="observe"))
            attempt = self.attempts[event.attempt] = Attempt(Standing(record), self._rules, self._primary)
            attempt.partition = partition
        self._changed.add(event.attempt)
        return attempt

    def _gather(self, stretch: Stretch, chunk: MetricChunk, record: Record) -> None:
        attempt = self._attempt(chunk, record.time, record.partition)
        attempt.note(chunk)
        if attempt.standing.record.over:
            self.counters["points_after_end"] += chunk.points()
            return
        for one, positions in chunk.positions(attempt.windows):
            if one.steps:
                stretch.add((chunk.attempt, one.name, chunk.source), positions, one, record.time)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, stretch: Stretch) -> None:
        """Judges what was gathered since the last cut: candidates of all series in the order of the log."""
        heap: Heap = []
        for (name, series, source), (positions, points, appended) in stretch.take():
            attempt = self.attempts[name]
            columns = self._extend(attempt.windows[series], source, positions, points, appended)
            if columns is None:
                continue
            for number, rule in enumerate(attempt.rules):
                if attempt.judged(rule) == series:
                    Candidates(attempt, rule, columns, number).push(heap, len(heap))
        judge_in_order(heap, self._fire, self._conclude)

    def _extend(self, window: Window, *points: Any) -> Columns | None:
        before = window.not_advancing
        columns = window.extend(*points)
        self.counters["steps_not_advancing"] += window.not_advancing - before
        return columns

    def _conclude(self, attempt: Attempt, rule: Rule, decision: Decision) -> None:
        standing = attempt.standing
        if decision.id in standing.known:
            return
        passed = self._gates(decision, standing, rule.mode)
        if decision.action in ("prune", "alert"):
            standing.latches[attempt.latch(rule)] = silent_until(passed)
        self._emit(passed, standing)

    def _emit(self, decision: Decision, standing: Standing) -> None:
        standing.known.add(decision.id)
        if decision.status == "pending":
            self._await(decision, standing)
        self._changed.add(decision.attempt)
        self._answers.decision(decision)

    def _await(self, decision: Decision, standing: Standing) -> None:
        if decision.action in LR_ACTIONS:  # a person's change supersedes the one that waits
            for waiting in [one for one in standing.pending.values() if one.action in LR_ACTIONS]:
                self._answers.ack(waiting, "refused", "superseded by a later change of the learning rate", decision.time)
                del standing.pending[waiting.id]
        standing.pending[decision.id] = decision
        heapq.heappush(self._timers, (decision.not_after + EXPIRY_GRACE_S, decision.attempt, decision.id))

    def _fire(self, until: float) -> None:
        """Fires the timers due at or before `until`, by (deadline, attempt)."""
        while self._timers and self._timers[0][0] <= until:
            deadline, name, decision_id_ = heapq.heappop(self._timers)
            if not decision_id_:
                if self.attempts.pop(name, None) is not None:
                    self._changed.add(name)
                continue
            attempt = self.attempts.get(name)
            decision = attempt.standing.pending.pop(decision_id_, None) if attempt else None
            if decision is not None:
                self._changed.add(name)
                self.counters["decisions_expired"] += 1
                self._answers.ack(decision, "expired", "the job did not answer in time", deadline)

    # -- cuts ------------------------------------------------------------------------------------------------------

    def _fold(self, event: Any, record: Record) -> None:
        match event:
            case RunEvent():
                self._fold_run(event, record.time, record.partition)
            case Ack():
                self._fold_ack(event)
            case Request() if len(record.body) > MAX_REQUEST_BYTES:
                error = f"a request of {len(record.body)} bytes is over the limit of {MAX_REQUEST_BYTES}"
                self._answers.dead_letter(record, CorruptData(error, "say it in fewer words"))
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
                self.counters["misplaced"] += 1

    def _fold_run(self, event: RunEvent, time: float, partition: int) -> None:
        attempt = self._attempt(event, time, partition)
        standing = attempt.standing
        before = standing.record
        standing.record = fold(before, event)
        if standing.record == before:
            return
        if event.event == "started":
            attempt.settle()
            self._inherit(attempt, event, time)
            self._order_keep_best(attempt, event, time)
        elif event.event == "restored":
            for window in attempt.windows.values():
                window.new_segment()
        elif standing.record.over and not before.over:
            self._end(attempt, event, time)

    def _inherit(self, attempt: Attempt, event: RunEvent, time: float) -> None:
        """A learning rate that was changed stays changed in an attempt that names its parent, and only there."""
        standing = attempt.standing
        parent = self.attempts.get(standing.record.said.parent or "")
        change = standing.inherited(parent.standing if parent is not None else None)
        if change is not None:
            reason = f"attempt {standing.record.said.parent}, which this one goes on from, ended with it"
            self._propose(attempt, (INHERITED, 1), change, reason, f"started:{event.seq}", time, mode="act")

    def _propose(
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
        self._emit(self._gates(decision, attempt.standing, mode), attempt.standing)

    def _order_keep_best(self, attempt: Attempt, event: RunEvent, time: float) -> None:
        """Best weights cannot be caught by a message that arrives steps later: the order stands before the first point."""
        said = attempt.standing.record.said
        for rule in attempt.rules:
            params = rule.policy.standing_order(attempt.judged(rule), attempt.goal) if isinstance(rule.policy, KeepsBest) else None
            if params is None or said.keeps_best or rule.mode != "act" or "restore" not in said.allow:
                continue
            reason = f"{rule.policy.name} restores the best weights by {params['series']} when it ends the run"
            policy = (rule.policy.name, rule.policy.version)
            self._propose(attempt, policy, ("keep-best", params), reason, f"started:{event.seq}", time, rule.mode)
            return

    def _end(self, attempt: Attempt, event: RunEvent, time: float) -> None:
        standing = attempt.standing
        for rule in attempt.rules:
            window = attempt.windows.get(attempt.judged(rule))
            seen = window.latest(time, f"ended:{event.seq}") if window is not None else None
            decision = rule.policy.at_end(seen) if seen is not None and isinstance(rule.policy, JudgesTheEnd) else None
            if decision is not None:
                self._conclude(attempt, rule, decision)
        for decision in standing.pending.values():
            self._answers.ack(decision, "refused", f"the attempt is over ({standing.record.state})", time)
        standing.pending.clear()
        attempt.settle()
        heapq.heappush(self._timers, (time + FORGET_S, event.attempt, ""))

    def _fold_ack(self, ack: Ack) -> None:
        attempt = self.attempts.get(ack.attempt)
        decision = attempt.standing.pending.pop(ack.id, None) if attempt else None
        if attempt is None or decision is None:
            return
        self._changed.add(ack.attempt)
        self.counters[f"acks_{ack.status}"] += 1
        if ack.status == "applied" and decision.action in LR_ACTIONS:
            attempt.standing.intent = msgspec.convert(decision.params["intent"], LrIntent)

    def _fold_request(self, request: Request, time: float) -> None:
        attempt = self.attempts.get(request.attempt or "") or self.current(request.run)
        if attempt is None:
            self.counters["requests_unknown_run"] += 1
            self._answers.notice("request", f"{request.by} asked for {request.action} of {request.run}: not known here", time)
            return
        reason = request.reason or f"{request.by} asked for it"
        change = (request.action, request.params)
        self._propose(attempt, ("person", 1), change, reason, request.id, time, mode="act", by=request.by)

    def _fold_own(self, decision: Decision, record: Record) -> None:
        """The judge's own decisions come back on control; after a lost state they tell what was decided already. One behind
        another daemon's claim was sent by who had lost the partition: no job obeys it."""
        attempt, time = self.attempts.get(decision.attempt), record.time
        if decision.epoch < (self.claims.epoch(record.partition) or 0) and decision.status == "pending":
            self.counters["decisions_stale"] += 1
            if attempt is None or decision.id not in attempt.standing.known:  # else it was sent again under the new epoch
                self._answers.ack(decision, "refused", "stale: another daemon had taken the partition over", time)
            return
        if attempt is None or decision.id in attempt.standing.known:
            return
        standing = attempt.standing
        standing.known.add(decision.id)
        self._changed.add(decision.attempt)
        if decision.action in ("prune", "alert"):
            standing.latches[f"{decision.policy}/{decision.evidence.get('series', '')}"] = silent_until(decision)
        if decision.status == "pending" and decision.not_after > time and not standing.record.over:
            self._await(decision, standing)

    # -- state -----------------------------------------------------------------------------------------------------

    def current(self, run: str) -> Attempt | None:
        """The newest attempt of a run, a live one first (attempts are ULIDs: they sort by their start)."""
        own = [one for one in self.attempts.values() if one.standing.record.run == run]
        return max(own, key=lambda one: (not one.standing.record.over, one.standing.record.attempt), default=None)

    @property
    def changed(self) -> int:
        """How many attempts changed since `saved`."""
        return len(self._changed)

    def changes(self) -> tuple[dict[str, bytes | None], bytes]:
        """What changed since `saved`, as the bytes of each attempt, and the judge's own body."""
        bodies = {name: (self.attempts[name].dump() if name in self.attempts else None) for name in self._changed}
        return bodies, msgspec.msgpack.encode({"counters": dict(self.counters), "stale": dict(self._backlog.points)})

    def saved(self) -> None:
        """What `changes` gave is durable."""
        self._changed.clear()

    def load(self, attempts: Mapping[str, bytes], body: bytes | None) -> None:
        """Forgets everything and takes the saved state instead."""
        plain = msgspec.msgpack.decode(body) if body else {}
        self.counters.clear()
        self.counters.update(plain.get("counters", {}))
        self._answers.take()
        self._backlog = Backlog(plain.get("stale"))
        self.claims = Claims()
        self.attempts, self._timers = {}, []
        self.take(0, {name: (body, {}) for name, body in attempts.items()})
        self._changed.clear()

    def take(self, partition: int, attempts: Mapping[str, tuple[bytes, Mapping[str, int]]]) -> None:
        """Takes over the attempts of a partition as they were saved, each with the offsets before which it is folded."""
        for name, (body, folded) in attempts.items():
            attempt = self.attempts[name] = Attempt.load(body, self._rules, self._primary)
            attempt.partition, attempt.folded = partition, folded
            record = attempt.standing.record
            self._timers += [(d.not_after + EXPIRY_GRACE_S, name, d.id) for d in attempt.standing.pending.values()]
            if record.over:
                self._timers.append(((record.ended or 0.0) + FORGET_S, name, ""))
            self._changed.add(name)
        heapq.heapify(self._timers)

    def drop(self, partition: int) -> None:
        """Forgets the attempts of a partition that is another daemon's now."""
        for name in [name for name, one in self.attempts.items() if one.partition == partition]:
            del self.attempts[name]
            self._changed.discard(name)

    def touch(self, attempt: str) -> None:
        """What is saved of this attempt has changed, though not in here."""
        if attempt in self.attempts:
            self._changed.add(attempt)
