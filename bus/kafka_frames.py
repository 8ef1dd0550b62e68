"""The three requests that are sent hundreds of times a second, packed and read by hand: produce, fetch, where partitions end.

kafka-python's messages know every version of each and take 0.2 ms of CPU a request; these know one, which every broker from 2.1 on
speaks (KIP-896 keeps them in Kafka 4), and take a tenth. The layouts are those of https://kafka.apache.org/protocol.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple

PRODUCE, FETCH, LIST_OFFSETS = 0, 1, 2
PRODUCE_VERSION, FETCH_VERSION, LIST_OFFSETS_VERSION = 7, 10, 2
ALL_IN_SYNC, LATEST = -1, -1
Place = tuple[str, int]
"""(a topic's name on the broker, partition number)"""

_HEADER = Struct(">hhih")
_SHORT, _INT = Struct(">h"), Struct(">i")
_PRODUCE = Struct(">hhi")
_PLACE, _PLACE_END = Struct(">ii"), Struct(">iq")
_FETCH = Struct(">iiiibii")
_FETCH_PLACE = Struct(">iiqqi")
_LIST = Struct(">ib")
_PRODUCED = Struct(">ihqqq")
_FETCHED = Struct(">ihqqqi")
_LISTED = Struct(">ihqq")


class Fetched(NamedTuple):
    """What a broker has of one partition: where it ends there, and records as Kafka keeps them."""

    error_code: int
    end: int
    records: bytes


def framed(api: int, version: int, number: int, client_id: bytes, body: bytes) -> bytes:
    """A whole request; `number` comes back with its answer."""
    head = _HEADER.pack(api, version, number, len(client_id)) + client_id
    return b"".join((_INT.pack(len(head) + len(body)), head, body))


def _text(text: str) -> bytes:
    data = text.encode()
    return _SHORT.pack(len(data)) + data


def _by_topic(places: Iterable[Place]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, number in places:
        found.setdefault(topic, []).append(number)
    return found


def produce(batches: Mapping[Place, bytes | bytearray], timeout_ms: int) -> bytes:
    """One batch of records for each partition, acknowledged when all replicas that are in sync have it."""
    topics = _by_topic(batches)
    parts: list[bytes | bytearray] = [_PRODUCE.pack(-1, ALL_IN_SYNC, timeout_ms), _INT.pack(len(topics))]
    for topic, numbers in topics.items():
        parts += (_text(topic), _INT.pack(len(numbers)))
        for number in numbers:
            batch = batches[topic, number]
            parts += (_PLACE.pack(number, len(batch)), batch)
    return b"".join(parts)


def produced(answer: bytes) -> tuple[dict[Place, int], float]:
    """The error code of each partition, 0 where its batch is acknowledged; and how long the broker wants to be left alone."""
    found, at = {}, 0
    topics, at = _int(answer, at)
    for _ in range(topics):
        topic, at = _text_at(answer, at)
        places, at = _int(answer, at)
        for _ in range(places):
            number, error, _, _, _ = _PRODUCED.unpack_from(answer, at)
            at += _PRODUCED.size
            found[topic, number] = error
    return found, _int(answer, at)[0] / 1000


class Patience(NamedTuple):
    """How long a fetch may wait for the first byte, and how much it may bring: in all, and of each partition."""

    wait_ms: int
    bytes: int
    partition_bytes: int


def fetch(patience: Patience, session: tuple[int, int], wanted: Mapping[Place, int], forgotten: Sequence[Place] = ()) -> bytes:
    """From these offsets on. In a session (its id, its epoch) what did not change since the last request is left out."""
    parts = [_FETCH.pack(-1, patience.wait_ms, 1, patience.bytes, 0, *session)]
    topics = _by_topic(wanted)
    parts.append(_INT.pack(len(topics)))
    for topic, numbers in topics.items():
        parts += (_text(topic), _INT.pack(len(numbers)))
        parts += [_FETCH_PLACE.pack(n, -1, wanted[topic, n], -1, patience.partition_bytes) for n in numbers]
    gone = _by_topic(forgotten)
    parts.append(_INT.pack(len(gone)))
    for topic, numbers in gone.items():
        parts += (_text(topic), _INT.pack(len(numbers)), *(_INT.pack(n) for n in numbers))
    return b"".join(parts)


def fetched(answer: bytes) -> tuple[int, int, dict[Place, Fetched]]:
    """The error code of the whole, the session's id, and what there is to say of partitions."""
    error, session = Struct(">hi").unpack_from(answer, 4)
    return error, session, dict(_fetched(answer, 10))


def _fetched(answer: bytes, at: int) -> Iterator[tuple[Place, Fetched]]:
    topics, at = _int(answer, at)
    for _ in range(topics):
        topic, at = _text_at(answer, at)
        places, at = _int(answer, at)
        for _ in range(places):
            number, error, end, _, _, aborted = _FETCHED.unpack_from(answer, at)
            at += _FETCHED.size + 16 * max(0, aborted)
            size, at = _int(answer, at)
            size = max(0, size)
            yield (topic, number), Fetched(error, end, answer[at : at + size])
            at += size


def list_offsets(places: Iterable[Place], time_ms: int = LATEST) -> bytes:
    """Where partitions end."""
    topics = _by_topic(places)
    parts = [_LIST.pack(-1, 0), _INT.pack(len(topics))]
    for topic, numbers in topics.items():
        parts += (_text(topic), _INT.pack(len(numbers)), *(_PLACE_END.pack(n, time_ms) for n in numbers))
    return b"".join(parts)


def listed(answer: bytes) -> dict[Place, tuple[int, int]]:
    """(error code, offset) of each partition."""
    found = {}
    topics, at = _int(answer, 4)
    for _ in range(topics):
        topic, at = _text_at(answer, at)
        places, at = _int(answer, at)
        for _ in range(places):
            number, error, _, offset = _LISTED.unpack_from(answer, at)
            at += _LISTED.size
            found[topic, number] = error, offset
    return found


def _int(data: bytes, at: int) -> tuple[int, int]:
    return _INT.unpack_from(data, at)[0], at + 4


def _text_at(data: bytes, at: int) -> tuple[str, int]:
    size = _SHORT.unpack_from(data, at)[0]
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size
