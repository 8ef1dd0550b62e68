"""What the judge answers with, as messages: decisions, acks of the gate, notices, dead letters."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from ..core.errors import CorruptData
from ..core.events import Ack, Decision, Notice, encode, topic_key
from ..core.letters import Place, letter_to
from ..core.ports import CONTROL, NOTICES, RUNS, Message, Record

LETTER_NOTICE_S = 60.0
"""Of letters that follow each other sooner (by append time) one notice tells; all are counted and kept."""


class Answers:
    """Gathers messages in order until they are taken, and counts each kind of trouble."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._out: list[Message] = []
        self._silent_until = 0.0
        self._untold = 0

    def take(self) -> list[Message]:
        """All that was gathered; afterwards there is nothing."""
        out, self._out = self._out, []
        return out

    def decision(self, decision: Decision) -> None:
        """A decision as it passed the gates; a prune or an alert is told to people too."""
        self._counters[f"decisions_{decision.status}"] += 1
        self._out.append(Message(CONTROL, topic_key(decision.run, decision.group), encode(decision)))
        if decision.action in ("prune", "alert"):
            word = {"would": " (would: observing only)", "refused": f" (refused: {decision.refused_by})"}.get(decision.status, "")
            self.notice(decision.action, f"{decision.reason}{word}", decision.time, "alert", decision)

    def ack(self, decision: Decision, status: Literal["refused", "expired"], reason: str, time: float) -> None:
        """The gate answers in the job's stead."""
        ack = Ack(decision.id, decision.run, decision.attempt, status, time, group=decision.group, reason=reason, by="gate")
        self._out.append(Message(RUNS, topic_key(decision.run, decision.group), encode(ack)))

    def notice(
        self,
        what: str,
        text: str,
        time: float,
        level: Literal["info", "warning", "alert"] = "warning",
        about: Decision | None = None,
        key: str = "",
    ) -> None:
        """A line for people; `key` names the partition it comes from where it is about no run."""
        run, attempt, group = (about.run, about.attempt, about.group) if about else (None, None, None)
        notice = Notice(what, text, time, level, run, attempt, group)
        self._out.append(Message(NOTICES, key or topic_key(run or what, group), encode(notice)))

    def dead_letter(self, record: Record, error: CorruptData, by: str = "judge") -> None:
        """A record that cannot be what it claims is kept with its reason and where it came from."""
        self._counters["dead_letters"] += 1
        self._out.append(letter_to(record, error.message, by))
        self._untold += 1
        if record.time < self._silent_until:
            return
        more = f" (and {self._untold - 1} before it)" if self._untold > 1 else ""
        text = f"{Place.of(record)}: {error.message}{more}; see smart-tuner dead-letters list"
        self.notice("dead_letter", text, record.time)
        self._silent_until, self._untold = record.time + LETTER_NOTICE_S, 0
