"""A person's hand on the switch: requests to pause, resume, hold and unhold, folded where they stand in the log.

Switching on again re-arms the latches of what the switch had silenced: the first point judged afterwards is a new trigger.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.events import RUN_NAME, Request
from ..core.ports import CONTROL, Record
from ..core.standing import FOREVER
from ..core.switches import ALL, ENDS, MAX_REASON_CHARACTERS, SWITCHING, Kind, Switch, wrong_length
from .attempt import Attempt
from .docket import KEEP_BEST, Docket

Again = Callable[[Attempt, str, float], None]


class Switchboard:
    """Folds requests about switches into the docket's, and lets what they silenced speak again. `keep_best` orders the best
    weights of an attempt whose order a pause had kept from its job."""

    def __init__(self, docket: Docket, keep_best: Again) -> None:
        self._docket, self._keep_best = docket, keep_best
        self._switches = docket.switches
        docket.when_due = self.end

    @staticmethod
    def takes(request: Request) -> bool:
        """Whether the request is about a switch, and not for a decision."""
        return request.action in SWITCHING

    def fold(self, request: Request, record: Record) -> None:
        """Switches off or on from this place of the partition's log."""
        wrong = _wrong(request)
        kind = ENDS.get(request.action)
        if wrong:
            self._docket.counters["switches_refused"] += 1
            self._tell(request.action, f"{request.by} asked for {request.action} of {request.run}: {wrong}", record, "")
        elif kind is None:
            self._off(request, record)
        else:
            self._on(request, kind, record)
        self._switches.hear(record.partition, request.id)

    def _off(self, request: Request, record: Record) -> None:
        kind: Kind = "pause" if request.action == "pause" else "hold"
        length_s = request.params.get("for_s")
        until = FOREVER if length_s is None else record.time + float(length_s)
        reason, copied = request.reason[:MAX_REASON_CHARACTERS], bool(request.params.get("copied"))
        switch = Switch(kind, request.run, request.by, record.time, until, reason, request.id, copied, record.key)
        if not self._switches.add(record.partition, switch):
            self._docket.counters["switches_refused"] += 1
            self._tell(kind, f"{request.run} is not switched: too many runs of this partition are", record, "")
            return
        if until != FOREVER:
            self._docket.remind(until, record.partition)
        if not copied:
            self._tell(request.action, switch.sentence, record, request.run)

    def _on(self, request: Request, kind: Kind, record: Record) -> None:
        before = self._switches.remove(record.partition, kind, request.run)
        if before is None:
            return
        self._lift(record.partition, before, request.id, record.time, record.offset)
        if not before.copied:
            why = f" ({request.reason[:MAX_REASON_CHARACTERS]})" if request.reason else ""
            text = f"{request.by} ended it{why}: {before.sentence}"
            self._tell(request.action, text, record, request.run)

    def end(self, partition: int, deadline: float) -> None:
        """The switches of a partition that ended at or before `deadline`."""
        for switch in self._switches.ended(partition, deadline):
            self._lift(partition, switch, switch.request, switch.until)
            if not switch.copied:
                done = "resume" if switch.kind == "pause" else "unhold"
                said = f"its time is over: {switch.sentence}"
                self._docket.answers.notice(done, _of(switch.run, said), switch.until, "info", key=switch.key)

    def _lift(self, partition: int, switch: Switch, trigger: str, time: float, offset: int | None = None) -> None:
        """What the switch silenced may speak again, unless another one of its kind is still in force. An attempt that was
        taken over may have folded the record at `offset` of control already."""
        for attempt in self._docket.attempts.values():
            record, silenced = attempt.standing.record, attempt.standing.silenced
            if attempt.partition != partition or switch.run not in (ALL, record.run) or switch.kind not in silenced.values():
                continue
            if offset is not None and offset < attempt.folded.get(CONTROL, 0):
                continue
            if self._switches.over(partition, switch.kind, record.run, time) is not None:
                continue
            mine = [latch for latch, kind in silenced.items() if kind == switch.kind]
            for latch in mine:
                del silenced[latch]
                attempt.standing.latches.pop(latch, None)
            self._docket.changed.add(record.attempt)
            if KEEP_BEST in mine and not record.over:
                self._keep_best(attempt, f"{trigger}:{record.attempt}", time)

    def _tell(self, what: str, text: str, record: Record, run: str) -> None:
        """A line of the daemon's log; a request that came to nothing (no `run`) is a warning."""
        self._docket.answers.notice(what, _of(run, text), record.time, "info" if run else "warning", key=record.key)


def _of(run: str, text: str) -> str:
    return text if run in ("", ALL) else f"{run}: {text}"


def _wrong(request: Request) -> str:
    """What is wrong with a request that anybody may have put onto the log; "" if nothing is."""
    if request.run == ALL and request.action in ("hold", "unhold"):
        return "a hold is of one run"
    if request.run != ALL and not RUN_NAME.fullmatch(request.run):
        return "no run can be called so"
    return wrong_length(request.params.get("for_s"))
