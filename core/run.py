"""What is known of an attempt, folded from its events and never edited."""

from __future__ import annotations

import msgspec

from .events import RunEvent, Started


class RunRecord(msgspec.Struct, frozen=True):
    """One attempt of a run. `state` is running, finished, pruned, failed or lost."""

    run: str
    attempt: str
    group: str | None = None
    state: str = "running"
    ended_by: str | None = None
    started: float | None = None
    ended: float | None = None
    said: Started = Started()
    last_restore_step: int | None = None
    last_seq: int = -1

    @property
    def over(self) -> bool:
        return self.state != "running"


def fold(record: RunRecord | None, event: RunEvent) -> RunRecord:
    """The record after `event`; an event already folded (its seq is not ahead) changes nothing.

    The first end stands, but for one guessed from silence (`lost`): a job that speaks again is running.
    """
    if record is None:
        record = RunRecord(event.run, event.attempt, event.group)
    if 0 <= event.seq <= record.last_seq:
        return record
    changes: dict[str, object] = {"last_seq": max(record.last_seq, event.seq)}
    if record.state == "lost" and event.event != "ended":
        changes |= {"state": "running", "ended": None, "ended_by": None}
    if event.event == "started" and event.started is not None:
        changes |= {"said": event.started, "started": event.time, "group": event.group}
    elif event.event == "ended" and record.state in ("running", "lost"):
        changes |= {"state": event.state or "finished", "ended_by": event.ended_by, "ended": event.time}
    elif event.event == "restored":
        changes |= {"last_restore_step": event.step}
    return msgspec.structs.replace(record, **changes)
