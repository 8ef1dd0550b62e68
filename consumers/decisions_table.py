"""`decisions/`: a row a decision, folded from Decisions on `control` and their Acks on `runs`."""

from __future__ import annotations

import msgspec

from ..core.events import Ack, Decision
from ..core.ports import CONTROL
from .parquet_files import DECISIONS_SCHEMA
from .row_files import Row, RowFiles, json_text, micros, whole
from .tenure import Tenure

RANK = {"pending": 0, "would": 0, "expired": 1, "refused": 2, "failed": 3, "applied": 4}
"""An answer takes the place of one of lower rank: what the job did, or tried, beats what was guessed from its silence."""
MAX_EARLY_ACKS = 1_000


class DecisionsTable:
    """The decisions of one partition of the control topic. An ack that arrives before its decision is kept in the file's
    facts; both foldings may be repeated and change nothing then."""

    def __init__(self, tenure: Tenure) -> None:
        self.rows = RowFiles(tenure, "decisions", DECISIONS_SCHEMA, "id", CONTROL)
        self.dropped_acks = 0

    @property
    def _early(self) -> dict[str, list[str]]:
        early: dict[str, list[str]] = self.rows.extra.setdefault("early_acks", {})
        return early

    def decide(self, decision: Decision) -> None:
        """Adds a decision; of one that is there already only an answer that a gate gave since is taken."""
        found = self.rows.get(decision.id)
        if found:
            row = found[0]
            if RANK[decision.status] <= RANK[row["status"]]:
                return
            row |= {"status": decision.status, "refused_by": decision.refused_by}
        else:
            row = _row(decision)
            for text in self._early.pop(decision.id, []):
                _answer(row, msgspec.json.decode(text, type=Ack))
        self.rows.put(row)

    def answer(self, ack: Ack) -> None:
        """Writes an ack into its decision's row."""
        found = self.rows.get(ack.id)
        if found:
            if _answer(found[0], ack):
                self.rows.put(found[0])
            return
        early = self._early
        texts = early.setdefault(ack.id, [])
        text = msgspec.json.encode(ack).decode()
        if text not in texts and len(texts) < len(RANK):
            texts.append(text)
        while len(early) > MAX_EARLY_ACKS:
            del early[next(iter(early))]
            self.dropped_acks += 1


def _row(decision: Decision) -> Row:
    return {
        "id": decision.id,
        "time": micros(decision.time),
        "run": decision.run,
        "attempt": decision.attempt,
        "step": whole(decision.step),
        "action": decision.action,
        "params": json_text(decision.params),
        "policy": decision.policy,
        "mode": decision.mode,
        "reason": decision.reason,
        "evidence": json_text(decision.evidence),
        "not_after": micros(decision.not_after),
        "status": decision.status,
        "refused_by": decision.refused_by,
        "applied_step": None,
        "before": None,
        "after": None,
        "latency_ms": None,
    }


def _answer(row: Row, ack: Ack) -> bool:
    """Writes `ack` into the row; False where a stronger answer stands, or where it is another attempt's than the decision."""
    if ack.attempt != row["attempt"] or RANK[ack.status] <= RANK[row["status"]]:
        return False
    row["status"] = ack.status
    row["before"] = None if ack.before is None else json_text(ack.before)
    row["after"] = None if ack.after is None else json_text(ack.after)
    row["refused_by"], row["applied_step"], row["latency_ms"] = None, None, None
    if ack.status == "applied":
        row["applied_step"] = whole(ack.step)
        answered = micros(ack.time)
        if answered is not None and row["time"] is not None:
            row["latency_ms"] = (answered - row["time"]) / 1000
    elif ack.status != "expired":
        row["refused_by"] = f"{ack.by}: {ack.reason}" if ack.reason else ack.by
    return True
