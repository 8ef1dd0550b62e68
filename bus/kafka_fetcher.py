"""Records from the leaders of their partitions, on the caller's thread.

kafka-python's consumer hands what it fetched from a thread of its own to the caller's, and each of these changes costs milliseconds
beside threads that compute. It stays what it is good at, the member of a group; what is read goes by here, with its record formats
and codecs. One request a leader is always under way (a session of KIP-227, so that only what changed is said again): the broker
answers as soon as there is something, and what comes meanwhile waits in the socket.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kafka.errors import CorruptRecordError, KafkaError, for_code
from kafka.record import MemoryRecords

from ..core.clock import Clock
from ..core.errors import SmartTunerError
from ..core.ports import Partition, Record
from .kafka_frames import FETCH, FETCH_VERSION, Fetched, Patience, Place, fetch, fetched
from .kafka_leaders import Leader, Leaders
from .kafka_options import client_options
from .kafka_settings import KafkaSettings
from .kafka_wire import Deadline, Wire

FETCH_BYTES, PARTITION_BYTES = 8 << 20, 1 << 20
"""So much comes at once at most, and of each partition; a record that is larger comes alone."""
OUT_OF_RANGE, SESSION_NOT_FOUND, SESSION_EPOCH = 1, 70, 71
NO_SESSION = (0, 0)
"""The first request: all partitions are said, and the broker opens a session."""
LAST_EPOCH = 2**31 - 1
HELD_MS = 5
"""While a partition is held, the others are not waited for: it may be wanted again at once."""
PAUSES_S = (0.02, 0.1, 0.25, 0.5)
FAILURES = (OSError, KafkaError, SmartTunerError)


class OutOfRange(Exception):
    """Positions that the broker does not have: `at` of each partition."""

    def __init__(self, at: Mapping[Partition, int]) -> None:
        super().__init__(str(dict(at)))
        self.at = dict(at)


@dataclass
class Line:
    """One leader's session: what the broker knows that we want, and what was wanted when the request under way was sent.
    `renew`: the next request says everything again."""

    wire: Wire
    session: tuple[int, int] = NO_SESSION
    told: dict[Partition, int] = field(default_factory=dict)
    under_way: bool = False
    renew: bool = False
    sent_at: float = 0.0


class Fetcher:
    """Not thread safe, and nothing for the child of a fork. `at` is where each partition is read next, `ends` where it ended
    when its leader spoke of it last; what it has not spoken of is not in there. `heard_at`: when a leader answered last."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        options: dict[str, Any] = client_options(settings.bootstrap, settings.client, "consumer")
        self._settings, self._clock = settings, clock
        self._timeout_s = options.get("request_timeout_ms", settings.request_timeout_s * 1000) / 1000
        wait_ms = min(options.get("fetch_max_wait_ms", settings.fetch_wait_s * 1000), self._timeout_s * 500)
        self._patience = Patience(
            int(wait_ms),
            options.get("fetch_max_bytes", FETCH_BYTES),
            options.get("max_partition_fetch_bytes", PARTITION_BYTES),
        )
        self.at: dict[Partition, int] = {}
        self.ends: dict[Partition, int] = {}
        self._names: dict[Place, Partition] = {}
        self._held: frozenset[Partition] = frozenset()
        self._leaders = Leaders(settings, clock)
        self._lines: dict[Leader, Line] = {}
        self._tries = 0
        self.heard_at = clock.monotonic()
        self._pause_until = float("-inf")

    def seek(self, partition: Partition, offset: int) -> None:
        """Reads on from there, and from now on if it did not."""
        if partition not in self.at:
            self._names[self._settings.topic(partition[0]), partition[1]] = partition
            self._renew()
        self.at[partition] = offset

    def drop(self, partition: Partition) -> None:
        """It is not read any more; what is under way of it is thrown away."""
        self.at.pop(partition, None)
        self.ends.pop(partition, None)
        self._renew()

    def _renew(self) -> None:
        """In a session a broker does not say again where a partition ends; who begins with one must hear it."""
        for line in self._lines.values():
            line.renew = True

    def hold(self, partitions: Iterable[Partition]) -> None:
        """All but these are fetched."""
        self._held = frozenset(partitions)

    @property
    def behind(self) -> bool:
        """Whether there is more than was read, by what the leaders said last."""
        return any(at < self.ends.get(partition, at) for partition, at in self.at.items())

    def poll(self, timeout_s: float) -> dict[Partition, list[Record]]:
        """What has come, waiting so long for the first. OutOfRange; what no waiting mends (an error of kafka-python, Unavailable);
        or, after quiet_s without an answer, why there is none. It goes on from where it is in any case."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            self._ask()
            self._wait(deadline - self._clock.monotonic())
            found = self._hear()
            if found:
                self._ask()  # the broker looks for more while this is worked on
                return found
            if self._clock.monotonic() >= deadline:
                return found

    def _ask(self) -> None:
        """A request to each leader that has none under way."""
        if self._clock.monotonic() < self._pause_until:
            return
        wanted = {partition: at for partition, at in self.at.items() if partition not in self._held}
        try:
            leaders = self._leaders.of(wanted)
        except FAILURES as error:
            self._lines.clear()
            self._leaders.close()
            self._fail(error)
            return
        for leader, partitions in leaders.items():
            line = self._lines.get(leader)
            if line is None or not line.under_way:
                try:
                    line = line or self._connected(leader)
                    self._send(line, {partition: wanted[partition] for partition in partitions})
                except FAILURES as error:
                    self._lose(leader, error)
        for leader in [one for one, line in self._lines.items() if one not in leaders and not line.under_way]:
            del self._lines[leader]

    def _connected(self, leader: Leader) -> Line:
        line = self._lines[leader] = Line(self._leaders.wire(leader))
        return line

    def _send(self, line: Line, wanted: dict[Partition, int]) -> None:
        """What changed since the broker was told last."""
        if line.renew:
            line.session, line.told, line.renew = (line.session[0], 0), {}, False
        name = self._settings.topic
        changed = {(name(p[0]), p[1]): at for p, at in wanted.items() if line.told.get(p) != at}
        gone = [(name(topic), number) for topic, number in line.told.keys() - wanted.keys()]
        patience = self._patience._replace(wait_ms=HELD_MS) if self._held else self._patience
        line.wire.patience(Deadline(self._clock, self._timeout_s))
        line.wire.post(FETCH, FETCH_VERSION, fetch(patience, line.session, changed, gone))
        line.told, line.under_way, line.sent_at = wanted, True, self._clock.monotonic()

    def _wait(self, timeout_s: float) -> None:
        """Until one of the leaders has answered."""
        waiting = [line.wire for line in self._lines.values() if line.under_way]
        if len(waiting) == 1:
            waiting[0].readable(timeout_s)
        elif not waiting:
            self._clock.sleep(max(0.0, min(timeout_s, PAUSES_S[0])))
        elif not any(wire.readable(0.0) for wire in waiting):
            poll = select.poll()
            for wire in waiting:
                poll.register(wire.stream, select.POLLIN)
            poll.poll(max(0.0, timeout_s) * 1000)

    def _hear(self) -> dict[Partition, list[Record]]:
        found: dict[Partition, list[Record]] = {}
        beyond: dict[Partition, int] = {}
        for leader, line in list(self._lines.items()):
            if not line.under_way:
                continue
            try:
                if line.wire.readable(0.0):
                    line.wire.patience(Deadline(self._clock, self._timeout_s))
                    self._take(line, line.wire.receipt(), found, beyond)
                    self._tries, self.heard_at = 0, self._clock.monotonic()
                elif self._clock.monotonic() - line.sent_at > self._timeout_s + self._patience.wait_ms / 1000:
                    raise TimeoutError(f"{leader[0]}:{leader[1]} does not answer")
            except FAILURES as error:
                self._lose(leader, error, bool(found))
        if beyond and not found:
            raise OutOfRange(beyond)
        return found

    def _take(self, line: Line, answer: bytes, found: dict[Partition, list[Record]], beyond: dict[Partition, int]) -> None:
        """What a leader answered. Of a partition that was moved meanwhile, or is not ours any more, it counts for nothing."""
        line.under_way = False
        error_code, session, parts = fetched(answer)
        if error_code in (SESSION_NOT_FOUND, SESSION_EPOCH):
            line.session, line.told = NO_SESSION, {}
            return
        if error_code:
            raise for_code(error_code)("fetch")
        asked = line.told
        line.session = (session, line.session[1] % LAST_EPOCH + 1) if session else NO_SESSION
        line.told = dict(asked) if session else {}
        trouble: Exception | None = None
        for place, one in parts.items():
            partition = self._names.get(place)
            if partition is None or self.at.get(partition, -1) != asked.get(partition):
                continue
            if one.error_code:
                line.told.pop(partition, None)
                if one.error_code == OUT_OF_RANGE:
                    beyond[partition] = asked[partition]
                else:
                    trouble = for_code(one.error_code)(place[0])
            elif records := self._records(partition, one):
                found[partition] = records
        if trouble is not None:
            raise trouble

    def _records(self, partition: Partition, one: Fetched) -> list[Record]:
        """Moves the position behind what came, and behind what is not for us to see."""
        self.ends[partition] = one.end
        first = following = self.at[partition]
        found: list[Record] = []
        batches = MemoryRecords(one.records)
        while one.records and (batch := batches.next_batch()) is not None:
            if not batch.validate_crc():
                raise CorruptRecordError(f"{self._settings.topic(partition[0])}/{partition[1]} at {batch.base_offset}")
            if not getattr(batch, "is_control_batch", False):
                found += [record_of(partition, record) for record in batch if record.offset >= first]
            following = max(following, getattr(batch, "next_offset", 0), found[-1].offset + 1 if found else 0)
        self.at[partition] = following
        return found

    def _lose(self, leader: Leader, error: Exception, has_found: bool = False) -> None:
        """Its connection is not used again: an answer may still come on it."""
        self._lines.pop(leader, None)
        self._leaders.drop(leader)
        if not has_found:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A leader that went is looked for anew, in silence for a while: brokers restart, and leaders change."""
        now = self._clock.monotonic()
        self._pause_until = now + PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        if (isinstance(error, KafkaError) and not error.retriable) or now - self.heard_at > self._settings.quiet_s:
            raise error

    def close(self) -> None:
        """The next poll connects anew."""
        self._lines.clear()
        self._leaders.close()


def record_of(partition: Partition, one: Any) -> Record:
    """A record as the port has it. A foreign emitter's may have no key, and a tombstone no body."""
    key = (one.key or b"").decode(errors="replace")
    headers = tuple((name, value or b"") for name, value in one.headers or ())
    return Record(*partition, one.offset, key, one.value or b"", one.timestamp / 1000, headers)
