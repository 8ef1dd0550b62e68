"""Spool to bus: records become messages, in the order in which the job wrote them."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..core.errors import CorruptData
from ..core.events import Ack, MetricChunk, RunEvent, Series, decode, encode_chunks, topic_key
from ..core.ports import METRICS, RUNS, Message
from .spool_reader import TURN_BYTES, Body, Rows, SpoolReader

SOURCE = "sdk"
MAX_CHUNK_POINTS = 3000
"""At 50 to 80 bytes a point a chunk stays under the limit of a body, so that it is not split behind its mark."""
_LATEST_S = 1e11


def mark_name(attempt: str) -> str:
    """Under this name the bus keeps how far a spool was read, in one commit with what was read."""
    return f"spool:{attempt}"


class Shipper:
    """Turns one spool into messages. Each carries the position behind it as its mark: started again there, nothing is
    lost and nothing comes twice."""

    def __init__(
        self, reader: SpoolReader, group: str | None = None, may_answer: Callable[[str], bool] = lambda _attempt: False
    ) -> None:
        """`may_answer` says of an older attempt of the same run whether this job may answer in its stead."""
        self.reader = reader
        self._may_answer = may_answer
        identity = reader.identity
        self.run, self.attempt = identity.run, identity.attempt
        self.group = group or identity.group
        self.ended = False
        self.strange_events = 0
        self.points = self.calls = 0
        """Read so far: points, and calls of log()."""

    @property
    def key(self) -> str:
        """What this attempt's messages are keyed by."""
        return topic_key(self.run, self.group)

    def read(self, now: float, limit: int = TURN_BYTES) -> list[Message]:
        """The messages of about `limit` bytes of spool; see SpoolReader.read for `now` and CorruptData."""
        messages: list[Message] = []
        waiting: list[Rows] = []
        points = 0
        for one in self.reader.read(now, limit):
            if isinstance(one, Body):
                self._ship(waiting, messages)
                waiting, points = [], 0
                self._ship_event(one, messages)
                continue
            size = len(one.names) * len(one.positions)
            self.calls += len(one.positions)
            if points and points + size > MAX_CHUNK_POINTS:
                self._ship(waiting, messages)
                waiting, points = [], 0
            waiting.append(one)
            points += size
        self._ship(waiting, messages)
        return messages

    def _ship(self, waiting: list[Rows], messages: list[Message]) -> None:
        if not waiting:
            return
        first = waiting[0].positions[0]
        series = _columns(waiting[0], first) if len(waiting) == 1 else _joined(waiting, first)
        chunk = MetricChunk(self.run, self.attempt, SOURCE, first, series, self.group)
        self.points += chunk.points()
        key = self.key
        bodies = list(encode_chunks(chunk))
        messages += [Message(METRICS, key, body) for body in bodies[:-1]]
        messages.append(Message(METRICS, key, bodies[-1], (), (mark_name(self.attempt), waiting[-1].end)))

    def _ship_event(self, one: Body, messages: list[Message]) -> None:
        """A job speaks for its own attempt, and says what an older one of its run did not live to answer."""
        try:
            event = decode(one.body)
        except CorruptData:
            self.strange_events += 1
            return
        if not isinstance(event, RunEvent | Ack) or not self._is_its_own(event):
            self.strange_events += 1
            return
        if isinstance(event, RunEvent):
            if event.event == "started" and event.group:
                self.group = event.group
            self.ended = self.ended or event.event == "ended"
        key = self.key if event.attempt == self.attempt else topic_key(event.run, event.group)
        messages.append(Message(RUNS, key, one.body, (), (mark_name(self.attempt), one.end)))

    def _is_its_own(self, event: RunEvent | Ack) -> bool:
        if event.run != self.run or event.attempt == self.attempt:
            return event.run == self.run
        return isinstance(event, Ack) and event.attempt < self.attempt and self._may_answer(event.attempt)


def _columns(rows: Rows, first: int) -> list[Series]:
    steps, times = list(rows.steps), _plausible(rows.times)
    if len(steps) == 1:  # one record: its points stand in order, and need no numbers
        return [Series(name, steps, list(column), times) for name, column in zip(rows.names, rows.values, strict=True)]
    return [
        Series(name, steps, list(column), times, [position + i for position in _offsets(rows, first)])
        for i, (name, column) in enumerate(zip(rows.names, rows.values, strict=True))
    ]


def _joined(waiting: list[Rows], first: int) -> list[Series]:
    joined: dict[str, Series] = {}
    for rows in waiting:
        steps, times, offsets = rows.steps, _plausible(rows.times), _offsets(rows, first)
        for i, (name, column) in enumerate(zip(rows.names, rows.values, strict=True)):
            one = joined.get(name)
            if one is None:
                one = joined[name] = Series(name, [], [], [], [])
            one.steps.extend(steps)
            one.values.extend(column)
            one.times.extend(times)
            assert one.at is not None
            one.at.extend([offset + i for offset in offsets])
    return list(joined.values())


def _offsets(rows: Rows, first: int) -> list[int]:
    return [position - first for position in rows.positions]


def _plausible(times: tuple[float, ...]) -> list[float]:
    """Times that JSON and calendars can hold; anything else becomes 1970."""
    if math.isfinite(sum(times)) and min(times) >= 0.0 and max(times) < _LATEST_S:
        return list(times)
    return [time if 0.0 <= time < _LATEST_S else 0.0 for time in times]
