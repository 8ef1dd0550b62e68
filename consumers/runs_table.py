"""`runs/`: a row an attempt, folded from RunEvents by core.run.fold."""

from __future__ import annotations

from typing import Any

import msgspec

from ..core.events import RunEvent, Started
from ..core.ports import RUNS
from ..core.run import RunRecord, fold
from .parquet_files import RUNS_SCHEMA
from .row_files import Row, RowFiles, json_text, micros, whole
from .tenure import Tenure


class RunsTable:
    """The attempts whose events come from one partition of the runs topic."""

    def __init__(self, tenure: Tenure) -> None:
        self.rows = RowFiles(tenure, "runs", RUNS_SCHEMA, "attempt", RUNS)
        self._numbers: dict[str, set[int]] = {}
        for row in self.rows.scan(["run", "attempt_number"]):
            self._numbers.setdefault(row["run"], set()).add(row["attempt_number"])

    def fold(self, event: RunEvent, offset: int) -> None:
        """Folds an event in; one at an offset that the row has seen changes nothing."""
        found = self.rows.get(event.attempt)
        last_seq, last_offset = found[1] if found and len(found[1]) == 2 else (-1, -1)
        if offset <= last_offset:
            return
        before = _record(found[0], last_seq) if found else None
        after = fold(before, event)
        if after == before:
            return
        number = found[0]["attempt_number"] if found else self._next_number(event.run)
        self.rows.put(_row(after, number), [after.last_seq, offset])

    def _next_number(self, run: str) -> int:
        """The smallest number that no attempt of the run has: a lost row gets its own back."""
        taken = self._numbers.setdefault(run, set())
        number = next(i for i in range(1, len(taken) + 2) if i not in taken)
        taken.add(number)
        return number


def _record(row: Row, last_seq: int) -> RunRecord:
    """The record as far as the row tells it; `fold` looks at no more."""
    said = Started(
        host=row["host"],
        user=row["user"],
        monitor=row["monitor"],
        goal=row["goal"],
        resume_from_step=row["resumed_from_step"],
        tags=_parsed(row["tags"]),
        config=_parsed(row["config"]),
        total_steps=row.get("total_steps"),
        policies=_parsed(row.get("policies")),
    )
    return RunRecord(
        run=row["run"],
        attempt=row["attempt"],
        group=row["group"],
        state=row["state"],
        ended_by=row["ended_by"],
        started=None if row["started"] is None else row["started"] / 1e6,
        ended=None if row["ended"] is None else row["ended"] / 1e6,
        said=said,
        last_seq=last_seq,
    )


def _parsed(text: str | None) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any]) if text else {}


def _row(record: RunRecord, number: int) -> Row:
    said = record.said
    return {
        "run": record.run,
        "attempt": record.attempt,
        "attempt_number": number,
        "state": record.state,
        "ended_by": record.ended_by,
        "user": said.user,
        "host": said.host,
        "group": record.group,
        "tags": json_text(said.tags),
        "config": json_text(said.config),
        "resumed_from_step": whole(said.resume_from_step),
        "monitor": said.monitor,
        "goal": said.goal,
        "started": micros(record.started),
        "ended": micros(record.ended),
        "total_steps": whole(said.total_steps),
        "policies": json_text(said.policies),
    }
