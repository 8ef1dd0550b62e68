"""What the rooms ask of each other. Each port has a twin in memory that ships with the product, and a conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from .clock import Clock as Clock

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

    from .events import Decision
    from .window import Columns, Evidence, Figures, Measure, Subject

METRICS, RUNS, CONTROL, NOTICES, DEAD_LETTERS = "metrics", "runs", "control", "notices", "dead_letters"
TOPICS = (METRICS, RUNS, CONTROL, NOTICES, DEAD_LETTERS)
STATE = "state"
"""The compacted topic of a fleet's judges; behind StateLog, no member polls it."""

Partition = tuple[str, int]
"""(topic, partition number)"""


EARLIEST = -1
"""A position: whatever the log has still. What retention removed before is no loss to one who begins (again) there."""


class Message(NamedTuple):
    """What is published. `mark` is (name, position): a transport that can, stores it in one commit with the message."""

    topic: str
    key: str
    body: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    mark: tuple[str, int] | None = None


class Record(NamedTuple):
    """What is read. Offsets of a partition rise, with gaps; `time` is when it was appended (seconds since 1970)."""

    topic: str
    partition: int
    offset: int
    key: str
    body: bytes
    time: float
    headers: tuple[tuple[str, bytes], ...] = ()


class Batch(NamedTuple):
    """A poll's answer: records in order of (time, topic, partition, offset); partitions that were taken away since the
    last poll; for each partition how many offsets retention removed before this group had read them; and whether there may
    be more, though none came: then time has not passed yet for who judges in the order of the log."""

    records: Sequence[Record] = ()
    revoked: Sequence[Partition] = ()
    fell_off: Mapping[Partition, int] = {}
    behind: bool = False


class Bus(Protocol):
    """A member's handle on the log. Not thread safe: one handle a thread. Unavailable where the log cannot be reached."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Appends in order; on return every message survives a kill of this process, on an error none or a prefix does."""

    def poll(
        self,
        topics: Sequence[str],
        group: str,
        start: Callable[[Partition], int | None] | None = None,
        limit: int = 1000,
        timeout_s: float = 0.0,
    ) -> Batch:
        """Records of the partitions this member owns in `group`, waiting up to `timeout_s` for the first; joins on the
        first call. `start` is asked once for each partition newly assigned: the offset to read from, EARLIEST, or None
        for the group's commit, else the earliest there is."""

    def follow(
        self, topic: str, key: str, position: int | None, limit: int = 1000, timeout_s: float = 0.0
    ) -> tuple[Sequence[Record], int]:
        """Without a group: records of the key's partition from offset `position` on (None: from the end), and the
        position to ask for next. A position that retention has passed reads on from the earliest there is."""

    def follow_partitions(
        self, topic: str, positions: Mapping[int, int | None], limit: int = 1000, timeout_s: float = 0.0
    ) -> tuple[Sequence[Record], Mapping[int, int]]:
        """`follow` for several partitions, by their numbers: records of any of them, in offset order within each, and the
        position to ask for next in each."""

    def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """The next offsets that `group` wants: a gauge of its lag, and what protects records it has not read."""

    def close(self) -> None:
        """Leaves its groups; the others take over at once. Idempotent."""


class StateLog(Protocol):
    """The state of a fleet's judges, a compacted log of key and value for each partition. Unavailable where it is away."""

    def read(self, partition: int) -> Sequence[tuple[str, bytes | None]]:
        """All entries up to the end as it is now, in the order in which they were written; None takes a key away. Of
        entries with one key, older ones may be missing."""

    def write(self, entries: Mapping[int, Sequence[tuple[str, bytes | None]]]) -> None:
        """Appends to each partition in order; on return all survive a kill of this process, on an error of each none or a
        prefix does."""

    def close(self) -> None: ...


class Consumer(Protocol):
    """What a lane drives: it folds records in and answers with messages; no I/O on the bus, no clock, no retry."""

    name: str
    topics: tuple[str, ...]

    def handle(self, records: Sequence[Record], now: float) -> Iterable[Message]:
        """Folds `records` (maybe none: time passes) in order; CorruptData only from a record it can name."""


class Collector(Protocol):
    """Something that makes messages from the world (logs, files, the system) when asked."""

    name: str

    def collect(self, now: float) -> Iterable[Message]: ...


class Policy(Protocol):
    """A judgement: no I/O, no clock, no memory. What it needs to remember it names as measures of the window."""

    name: str
    version: int

    def measures(self, subject: Subject) -> Sequence[Measure]:
        """New running measures for one series (its goal counts), whose columns `screen` and `judge` read by key."""

    def screen(self, columns: Columns) -> NDArray[bool_] | None:
        """A mask over the columns' points, which may be those of several series that are judged alike (the subject's goal is
        that of all): False where `judge` would surely answer None. None means: ask for each.
        The policies shipped here screen exactly: True is just where `judge` answers."""

    def judge(self, seen: Evidence) -> Decision | None:
        """What follows at this very point, with its reason as a sentence a person can act on."""


@runtime_checkable
class ScreensPoint(Protocol):
    """A policy that also screens one point without arrays, which is what a live job sends."""

    def may_speak(self, figures: Figures, subject: Subject) -> bool:
        """False only where `screen` would say False of the point, whatever the peers are."""


class Tracker(Protocol):
    """A foreign place that mirrors runs (MLflow, W&B, TensorBoard)."""

    name: str

    def mirror(self, records: Sequence[Record]) -> None: ...


class Engine(Protocol):
    """A search engine that is asked for parameters and told results."""

    name: str

    def ask(self) -> Mapping[str, object]: ...
    def tell(self, trial: str, value: float | None, state: str) -> None: ...
