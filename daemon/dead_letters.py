"""What nobody could read, as people ask for it: listed, shown, and published again."""

from __future__ import annotations

import base64
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import CorruptData, SmartTunerError, Unavailable, UsageError
from ..core.events import decode
from ..core.letters import MAX_TRIES, Letter, Place, letter_in, retried
from ..core.ports import DEAD_LETTERS, TOPICS, Bus, Clock, Record
from .edge_line import Peer

PAGE = 500
MAX_LISTED = 10_000
MAX_RETRIED = 200
MAX_RETRIED_BYTES = 8 << 20
"""Of one question; who asks for all asks again from where this one ended."""
WAIT_S = 1.0
MOST_SILENT = 5
LOOKING_S = 20.0
"""So long one question may read."""


class DeadLetters:
    """Belongs to the thread that answers questions. `connect` gives a handle on the bus, `partitions` how many
    partitions the topic has."""

    def __init__(self, connect: Callable[[], Bus], partitions: Callable[[], int], clock: Clock) -> None:
        self._connect, self._partitions, self._clock = connect, partitions, clock

    def answer(self, query: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        """`act` is list (`limit`), show (`id`), retry (`id`, or `all` and `after`). The bytes of a letter may be anybody's:
        they are shown to, and published again for, root and the daemon's own user only."""
        act, bus = query.get("act", "list"), self._connect()
        try:
            if act == "list":
                return {"letters": self._list(bus, int(query.get("limit", 100)))}
            if peer.uid not in (0, os.getuid()):
                return {"refused": f"only the daemon's own user may {act} dead letters", "hint": "ask the operator"}
            if act == "show":
                return self._show(bus, Place.parse(str(query.get("id", ""))))
            if act == "retry" and query.get("all"):
                return self._retry_all(bus, query.get("after") or {})
            if act == "retry":
                return self._retry(bus, *self._find(bus, Place.parse(str(query.get("id", "")))))
        finally:
            bus.close()
        raise UsageError(f"dead letters cannot be asked to {act!r}", "list, show or retry")

    # reading

    def _records(self, bus: Bus, partition: int, first: int, end: int) -> Iterator[Record]:
        """What stands in [first, end) of one partition; Unavailable where that cannot be had in time."""
        deadline, position, silent = self._clock.monotonic() + LOOKING_S, first, 0
        while position < end:
            if silent == MOST_SILENT or self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"dead_letters/{partition} cannot be read from {first} to its end within {LOOKING_S:g} s",
                    "try again, or ask for less with --limit",
                )
            records, positions = bus.follow_partitions(DEAD_LETTERS, {partition: position}, PAGE, WAIT_S)
            position, silent = positions[partition], 0 if records else silent + 1
            for record in records:
                if record.offset >= end:
                    return
                yield record

    def _end(self, bus: Bus, partition: int) -> int:
        return bus.follow_partitions(DEAD_LETTERS, {partition: None})[1][partition]

    def _list(self, bus: Bus, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` letters, the newest last."""
        limit = max(1, min(limit, MAX_LISTED))
        rows: list[dict[str, Any]] = []
        for partition in range(self._partitions()):
            rows += self._newest(bus, partition, limit)
        return sorted(rows, key=lambda row: float(row["time"]))[-limit:]

    def _newest(self, bus: Bus, partition: int, limit: int) -> list[dict[str, Any]]:
        """Reads a stretch before the end, and a longer one while that holds too few: offsets have gaps."""
        end = self._end(bus, partition)
        span = 4 * limit
        while True:
            first, found = max(0, end - span), deque[dict[str, Any]](maxlen=limit)
            known: dict[str, dict[str, Any]] = {}
            said: set[tuple[str, str]] = set()
            for record in self._records(bus, partition, first, end):
                mark = retried(record)
                if mark is not None:
                    if mark in known:
                        known[mark]["status"] = "retried"
                    continue
                row = _row(letter_in(record))
                if row["from"] and (row["from"], row["by"]) in said:  # a kill made its lane say it twice
                    continue
                said.add((row["from"], row["by"]))
                known[row["id"]] = row
                found.append(row)
            if len(found) >= limit or first == 0:
                return list(found)
            span *= 8

    def _find(self, bus: Bus, place: Place) -> tuple[Letter, bool]:
        """The letter, and whether it was published again already."""
        if place.topic != DEAD_LETTERS or place.partition >= self._partitions():
            raise UsageError(f"{place} is no dead letter", "smart-tuner dead-letters list names them")
        end, letter = self._end(bus, place.partition), None
        for record in self._records(bus, place.partition, place.offset, end):
            mark = retried(record)
            if letter is None:
                if record.offset != place.offset or mark is not None:
                    break
                letter = letter_in(record)
            elif mark == str(place):
                return letter, True
        if letter is None:
            raise SmartTunerError(f"no dead letter stands at {place}", "it is past the log's retention, or was never there")
        return letter, False

    def _show(self, bus: Bus, place: Place) -> dict[str, Any]:
        letter, done = self._find(bus, place)
        headers = {name: value.decode(errors="replace") for name, value in letter.headers}
        shown = {**_row(letter), "headers": headers, "body": base64.b64encode(letter.body).decode()}
        return shown | ({"status": "retried"} if done else {})

    # publishing again

    def _retry(self, bus: Bus, letter: Letter, done: bool) -> dict[str, Any]:
        if done:
            return _told(letter, "already", "it was published again before; what is still bad came back as a new letter")
        return self._publish_again(bus, [letter])[0]

    def _retry_all(self, bus: Bus, after: Mapping[str, Any]) -> dict[str, Any]:
        """All that wait, of each partition from the offset that `after` names on; `after` of the answer is what to ask for
        next, empty at the end."""
        results: list[dict[str, Any]] = []
        following: dict[str, int] = {}
        for partition in range(self._partitions()):
            if after and str(partition) not in after:
                continue
            letters, following_of = self._waiting(bus, partition, int(after.get(str(partition), 0)))
            if following_of is not None:
                following[str(partition)] = following_of
            results += self._publish_again(bus, letters)
        return {"results": results, "after": following}

    def _waiting(self, bus: Bus, partition: int, first: int) -> tuple[list[Letter], int | None]:
        """Letters that were not published again yet, and where to go on; None: these were the last."""
        letters: dict[str, Letter] = {}
        following, size = None, 0
        for record in self._records(bus, partition, first, self._end(bus, partition)):
            mark = retried(record)
            if mark is not None:
                letters.pop(mark, None)
            elif following is None:
                if len(letters) >= MAX_RETRIED or size > MAX_RETRIED_BYTES:
                    following = record.offset  # read on for the marks
                    continue
                letters[str(Place.of(record))] = letter_in(record)
                size += len(record.body)
        return list(letters.values()), following

    def _publish_again(self, bus: Bus, letters: Sequence[Letter]) -> list[dict[str, Any]]:
        """Bodies first, then the marks: a kill between them publishes a body twice, which ids make harmless."""
        told, bodies, marks = [], [], []
        for letter in letters:
            why = refusal(letter)
            told.append(_told(letter, "refused" if why else "retried", why))
            if not why:
                body, mark = letter.again()
                bodies.append(body)
                marks.append(mark)
        bus.publish(bodies + marks)
        return told


def _told(letter: Letter, status: str, reason: str = "") -> dict[str, Any]:
    return {"id": str(letter.place), "topic": letter.origin.partition("/")[0], "status": status, "reason": reason}


def refusal(letter: Letter) -> str:
    """Why its bytes are not published again: "" where this daemon can read them now."""
    if not letter.origin or letter.origin.partition("/")[0] not in TOPICS:
        return f"it does not say where it came from ({letter.origin or 'nothing'})"
    if not letter.whole:
        return f"only {len(letter.body)} of its {letter.size} bytes were kept"
    if letter.tries >= MAX_TRIES:
        return f"these bytes were published again {letter.tries} times, and refused each time"
    try:
        decode(letter.body)
    except CorruptData as error:
        return f"this daemon cannot read it either: {error.message}"
    return ""


def _row(letter: Letter) -> dict[str, Any]:
    return {
        "id": str(letter.place),
        "time": letter.time,
        "from": letter.origin,
        "appended": letter.appended,
        "key": letter.key,
        "by": letter.by,
        "reason": letter.reason,
        "bytes": letter.size,
        "kept": len(letter.body),
        "tries": letter.tries,
        "retry_of": letter.retry_of or None,
        "status": "waiting",
    }
