"""A job as the daemon sees it: it follows its control, applies what is pending, writes that down, and answers.

What it applied stands in a file of its own, a line a decision, durable before the answer is published; a decision that is
there already is only answered again. So the file says what was really done to the job, however often anybody was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from script import BASE, ROUND_S, Source
from smarttuner.core.clock import ManualClock
from smarttuner.core.errors import CorruptData
from smarttuner.core.events import Ack, Decision, Event, RunEvent, decode, encode
from smarttuner.core.ports import CONTROL, RUNS, Bus, Message, Record

NO_ANSWER = "silent"
Line = dict[str, Any]
"""What was done about one decision."""


class Job:
    """One attempt's job; `mark` tells the position on control behind the last decision that it answered."""

    def __init__(self, folder: str, source: Source, bus: Bus, mark: Callable[[str], int | None], clock: ManualClock) -> None:
        self.source, self._bus, self._clock = source, bus, clock
        self.path = os.path.join(folder, f"{source.attempt}.applied")
        self.lines = read_lines(self.path)
        self._position = mark(self._name) or 0

    @property
    def _name(self) -> str:
        return f"job:{self.source.attempt}"

    @property
    def pruned(self) -> int | None:
        """The round in which it was pruned."""
        return next((one["round"] for one in self.lines.values() if (one["action"], one["status"]) == ("prune", "applied")), None)

    def step(self, i: int) -> None:
        """Round i: everything new on control."""
        if i < self.source.first or i in self.source.paused:
            return
        records, self._position = self._bus.follow(CONTROL, self.source.key, self._position)
        answers: dict[str, Line] = {}
        for record in records:
            try:
                event = decode(record.body)
            except CorruptData:
                continue
            if not self.obeys(event, record):
                continue
            if event.attempt == self.source.attempt and event.status == "pending":
                line = self.lines.get(event.id) or self._obey(event, i)
                if line is not None:
                    answers[event.id] = line
        if answers:
            self._answer(sorted(answers.values(), key=lambda line: -line["n"]))

    def obeys(self, event: Any, record: Record) -> bool:
        """Whether this is a decision of who may decide."""
        return isinstance(event, Decision)

    def _obey(self, decision: Decision, i: int) -> Line | None:
        line = self._outcome(decision, i, self._moment(i))
        if line["status"] == NO_ANSWER:
            return None
        self._write(decision.id, line)
        return line

    def _moment(self, i: int) -> float:
        """When the next line is written: a moment of its own, so that an answer given again moves no other one."""
        return BASE + (i + 0.5) * ROUND_S + int(self.source.attempt[1:]) * 0.01 + len(self.lines) * 1e-4

    def _outcome(self, decision: Decision, i: int, now: float) -> Line:
        dice = hashlib.sha256(decision.id.encode()).digest()[0]
        status = "applied" if dice < 180 else "refused" if dice < 200 else "failed" if dice < 220 else NO_ANSWER
        if status != NO_ANSWER and (self.pruned is not None or now > decision.not_after):
            status = "expired" if now > decision.not_after else "refused"
        number = len(self.lines)
        return {
            "id": decision.id, "n": number, "action": decision.action, "params": decision.params, "status": status,
            "round": i, "time": now, "step": number * 10, "before": number * 1.0, "after": number + 0.5,
        }  # fmt: skip

    def _write(self, id_: str, line: Line) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        self.lines[id_] = line

    def _answer(self, lines: Sequence[Line]) -> None:
        """In one commit, the newest first: what is answered once more stands behind what was never answered."""
        self._clock.turn(max(0.0, lines[0]["time"] - self._clock.now()))
        messages = [Message(RUNS, self.source.key, encode(event)) for line in lines for event in self._events(line)]
        self._bus.publish([*messages[:-1], messages[-1]._replace(mark=(self._name, self._position))])

    def _events(self, line: Line) -> list[Event]:
        one = self.source
        applied = line["status"] == "applied"
        answer = Ack(
            line["id"], one.run, one.attempt, line["status"], line["time"], 1000 + 2 * line["n"], one.group,
            line["step"], line["before"], line["after"], "" if applied else "because",
        )  # fmt: skip
        if line["action"] != "prune" or not applied:
            return [answer]
        end = RunEvent(
            one.run, one.attempt, "ended", line["time"], 1001 + 2 * line["n"], one.group, state="pruned", ended_by=line["id"]
        )
        return [answer, end]


def read_lines(path: str) -> dict[str, Line]:
    """What a job applied, by id; a line twice is kept twice in the file and told by the summary."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return {line["id"]: line for line in map(json.loads, file)}
