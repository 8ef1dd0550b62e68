"""Dead letters: records that nobody could read, kept whole, with why and where they came from.

A letter is the bytes of the record under headers that tell the rest. A mark behind it says that a person published it again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import UsageError
from .events import MAX_BODY_BYTES
from .ports import DEAD_LETTERS, Message, Record

MAX_LETTER_BYTES = (2 << 20) - (64 << 10)
"""A foreign body may be as large as its broker lets it be (1 MiB by default): so much of it is kept."""
MAX_REASON_BYTES = 500
MAX_HEADERS_BYTES = 16 << 10
"""Of the record's own headers; a letter with more goes without them."""
MAX_TRIES = 3

REASON, FROM, APPENDED, BY, BYTES, TRIES, RETRY_OF, RETRIED = (
    "reason",
    "from",
    "appended",
    "by",
    "bytes",
    "tries",
    "retry_of",
    "retried",
)
_OWN = "own."
"""Before the name of a header that the record itself had."""
_PLACE = re.compile(r"([a-z_]+)/(\d{1,9})@(\d{1,19})", re.ASCII)


def limit_of(topic: str) -> int:
    """How many bytes a body of this topic may have."""
    return MAX_LETTER_BYTES if topic == DEAD_LETTERS else MAX_BODY_BYTES


class Place(NamedTuple):
    """Where a record stands on the log; as text `topic/partition@offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"

    @classmethod
    def of(cls, record: Record) -> Place:
        """Of a record that was read."""
        return cls(record.topic, record.partition, record.offset)

    @classmethod
    def parse(cls, text: str) -> Place:
        """UsageError for what is none.

        >>> str(Place.parse("dead_letters/0@17"))
        'dead_letters/0@17'
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} names no record", "write topic/partition@offset, as in dead_letters/0@17")
        return cls(found[1], int(found[2]), int(found[3]))


def letter_to(record: Record, reason: str, by: str) -> Message:
    """What keeps `record`, which `by` (a lane) could not read because of `reason`."""
    told = dict(record.headers)
    own = [(_OWN + name, value) for name, value in record.headers if name not in (TRIES, RETRY_OF)]
    if sum(len(name) + len(value) for name, value in own) > MAX_HEADERS_BYTES:
        own = []
    headers = [
        (REASON, reason.encode(errors="replace")[:MAX_REASON_BYTES]),
        (FROM, str(Place.of(record)).encode()),
        (APPENDED, repr(record.time).encode()),
        (BY, by.encode()),
        (BYTES, str(len(record.body)).encode()),
        *((name, told[name]) for name in (TRIES, RETRY_OF) if name in told),
        *own,
    ]
    return Message(DEAD_LETTERS, record.key, record.body[:MAX_LETTER_BYTES], tuple(headers))


class Letter(NamedTuple):
    """A letter as it was found. `size` counts the bytes that the record had, `body` what was kept of them; `tries` how often
    these bytes had been published again before; `headers` are the record's own."""

    place: Place
    time: float
    key: str
    body: bytes
    reason: str
    origin: str
    appended: float
    by: str
    size: int
    tries: int = 0
    retry_of: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all of the record was kept."""
        return self.size == len(self.body)

    def again(self) -> tuple[Message, Message]:
        """The bytes on their way back to where they came from, and the mark behind the letter that says so."""
        tried = ((TRIES, str(self.tries + 1).encode()), (RETRY_OF, str(self.place).encode()))
        back = Message(Place.parse(self.origin).topic, self.key, self.body, (*self.headers, *tried))
        return back, Message(DEAD_LETTERS, self.key, b"", ((RETRIED, str(self.place).encode()),))


def retried(record: Record) -> str | None:
    """The letter's place, where this record is the mark that it was published again."""
    found = dict(record.headers).get(RETRIED)
    return None if found is None else found.decode(errors="replace")


def letter_in(record: Record) -> Letter:
    """The letter in a record of dead_letters; what its headers do not tell stays empty."""
    told = {name: value.decode(errors="replace") for name, value in record.headers if not name.startswith(_OWN)}
    return Letter(
        place=Place.of(record),
        time=record.time,
        key=record.key,
        body=record.body,
        reason=told.get(REASON, ""),
        origin=told.get(FROM, ""),
        appended=_number(told.get(APPENDED, "")),
        by=told.get(BY, ""),
        size=int(_number(told.get(BYTES, "")) or len(record.body)),
        tries=int(_number(told.get(TRIES, ""))),
        retry_of=told.get(RETRY_OF, ""),
        headers=tuple((name.removeprefix(_OWN), value) for name, value in record.headers if name.startswith(_OWN)),
    )


def _number(text: str) -> float:
    """0 for what a stranger wrote instead."""
    return float(text) if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text, re.ASCII) else 0.0
