"""The log of one machine: two SQLite files in the data directory, opened by the daemon alone.

metrics live in bus.db; runs, control, notices and dead letters in control.db, so that metrics can neither fill nor lock them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence

from ..core.ports import METRICS, TOPICS, Bus, Clock, Message, Partition, Record
from . import filesystem
from .database import Damaged, DiskFull
from .directory import DirectoryLock, require_local
from .groups import Groups
from .head import Head
from .housekeeping import Housekeeper, Housekeeping
from .log_file import LogFile
from .member import POLL_BYTES, Member
from .reserve import Reserve
from .retention import DEFAULT, Retention
from .tail import Offsets

TAIL_BYTES = {topic: (16 << 20 if topic == METRICS else 1 << 20) for topic in TOPICS}
"""What of each partition stays in memory, so that who is up to date reads no file."""
WRITE_MESSAGES = 5000
"""So many messages go into one transaction at most."""
WARNINGS = 100
"""So many are kept."""
REBOOT_GAP = 1 << 20
"""After a reboot the last commits may be missing from the file (they are not fsynced), while a reader's position counts them:
new offsets start behind any of them, lest a new record be taken for one that was read already."""


def boot_id(path: str = "/proc/sys/kernel/random/boot_id") -> str:
    """Changes with every boot; "" where the kernel does not say."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class LocalLog:
    """One per data directory (InUse says who has it). Thread safe; each thread takes a handle of its own with `connect`.

    `warnings` are sentences for people about what was found at opening; `counters` count for status.
    """

    def __init__(
        self,
        folder: str,
        clock: Clock,
        partitions: int = 1,
        limits: Retention = DEFAULT,
        *,
        remote: Callable[[str], str | None] = filesystem.remote,
        boot: str | None = None,
        housekeeping: bool = True,
    ) -> None:
        require_local(folder, "the bus", remote)
        self.folder = folder
        self.warnings: list[str] = []
        self.head = Head(clock, TOPICS, partitions, TAIL_BYTES)
        self.groups = Groups(clock, self.head.bells, partitions)
        self.counters = self.head.counters
        lived = os.path.exists(os.path.join(folder, "bus.lock"))
        self._lock = DirectoryLock(folder, "bus.lock", "the bus")
        self._files: list[LogFile] = []
        try:
            self._reserve = Reserve(os.path.join(folder, "control.reserve"), limits.reserve_bytes)
            self._boot = boot_id() if boot is None else boot
            self._open(partitions, lived)
        except BaseException:
            self._shut()
            raise
        metrics, control = self._files
        self._file_of = {topic: metrics if topic == METRICS else control for topic in TOPICS}
        self._control = control
        self._marks = {**metrics.marks()}
        for name, position in control.marks().items():
            self._marks[name] = max(position, self._marks.get(name, position))
        self._commits = control.commits()
        self._unsaved: set[tuple[str, Partition]] = set()
        self.housekeeping = Housekeeping(self.head, self._files, limits, self._commits, self._reserve)
        self._housekeeper = Housekeeper(self.maintain) if housekeeping else None

    def _open(self, partitions: int, lived: bool) -> None:
        others = tuple(topic for topic in TOPICS if topic != METRICS)
        for name, topics in (("bus.db", (METRICS,)), ("control.db", others)):
            try:
                self._open_file(name, topics, partitions, lived)
            except DiskFull:
                if not self._reserve.release():
                    raise
                self._open_file(name, topics, partitions, lived)

    def _open_file(self, name: str, topics: Sequence[str], partitions: int, lived: bool) -> None:
        file = LogFile(os.path.join(self.folder, name), topics, partitions, self.head.clock)
        try:
            known = file.offsets()
            last_boot = file.fact("boot")
            if lived and last_boot is None:  # readers' positions are of a file that is gone: begin above all of them
                first = int(self.head.clock.now() * 1e6)
                known = {p: Offsets(first, first) for p in known}
            elif last_boot != self._boot:
                for one in known.values():
                    if one.next:
                        one.skip(REBOOT_GAP)
            with file.writing:
                file.save_offsets(known, file.last_us())
                file.state("boot", self._boot)
        except BaseException:
            file.close()
            raise
        self.head.restore(known, file.last_us())
        self._files.append(file)
        if file.damaged:
            self._warn(f"{file.why}; it is kept as {file.damaged}, and {name} begins anew")

    def _warn(self, text: str) -> None:
        self.counters["damaged"] += 1
        self.warnings.append(text)
        del self.warnings[:-WARNINGS]

    def _replace(self, file: LogFile, error: Damaged) -> None:
        """A file that turned out damaged under way is set aside; readers are told how many records they lost with it. The
        caller holds `writing`."""
        if error.generation != file.generation:  # somebody else met it first
            return
        aside = file.replace()
        for partition in file.partitions:
            first = max(int(self.head.clock.now() * 1e6), self.head.next(partition))
            self.head.begin_at(partition, first)
        file.save_offsets({p: self.head.offsets(p) for p in file.partitions}, self.head.last_us)
        file.state("boot", self._boot)
        if file is self._control:
            self._unsaved.update(self._commits)
        self._warn(f"{error.message}; it is kept as {aside}, and {os.path.basename(file.path)} begins anew")

    def connect(self) -> Bus:
        """A member's handle."""
        return Member(self)

    def mark(self, name: str) -> int | None:
        """The position stored with the last message marked `name`."""
        return self._marks.get(name)

    def lag(self, group: str) -> dict[Partition, int]:
        """How many records of each partition the group has not committed yet; partitions it never committed are left out."""
        commits = {p: position for (name, p), position in list(self._commits.items()) if name == group}
        return {p: self.head.count(p, max(at, self.head.earliest(p)), self.head.next(p)) for p, at in commits.items()}

    def status(self) -> dict[str, object]:
        """For `status`: files in bytes, members and lag by group, whether the reserve is held, what people should know."""
        return {
            "transport": "local",
            "partitions": self.head.partitions,
            "files": {os.path.basename(f.path): sum(f.sizes()) + f.wal_bytes() for f in self._files},
            "groups": self.groups.members(),
            "lag": {group: sum(self.lag(group).values()) for group in {name for name, _ in self._commits.copy()}},
            "reserve": self._reserve.held,
            "warnings": list(self.warnings),
        }

    def rebalance(self, group: str) -> None:
        """See Groups.rebalance."""
        self.groups.rebalance(group)

    def skip_offsets(self, partition: Partition, count: int) -> None:
        """Leaves a gap of `count` offsets."""
        file = self._file_of[partition[0]]
        with file.writing:
            known = self.head.change(partition, lambda offsets: offsets.skip(count))
            file.save_offsets({partition: known}, self.head.last_us)

    def maintain(self) -> None:
        """What a thread does about once a second: commits left over, retention, checkpoints, the reserve."""
        with self._control.writing:
            self._save_commits()
        for file, error in self.housekeeping.tidy():
            if isinstance(error, Damaged):
                with file.writing:
                    self._replace(file, error)
            else:
                self.counters["housekeeping_failed"] += 1

    def close(self) -> None:
        """Every handle raises Unavailable from now on; the files are folded up and free for another. Idempotent."""
        self.head.close()
        if self._housekeeper is not None:
            self._housekeeper.stop()
        self._shut()

    def _shut(self) -> None:
        for file in self._files:
            file.close()
        self._files = []
        self._lock.release()

    # what a member stands on

    def append(self, messages: Sequence[Message]) -> None:
        """One transaction for each run of messages that belong to the same file, in order: on an error a prefix is there."""
        for file, run in itertools.groupby(messages, lambda message: self._file_of[message.topic]):
            several = list(run)
            for first in range(0, len(several), WRITE_MESSAGES):
                self._write(file, several[first : first + WRITE_MESSAGES])

    def _write(self, file: LogFile, messages: Sequence[Message]) -> None:
        marks = dict(message.mark for message in messages if message.mark is not None)
        with file.writing:
            if file is not self._control and not self._reserve.held and not self._reserve.restore():
                self.counters["refused_full"] += len(messages)
                raise DiskFull(
                    f"{file.path}: the disk is full (what is left is for control)",
                    "free space on the disk of the data directory; it goes on by itself then",
                )
            try:
                self._begin_and_store(file, messages, marks)
            except Damaged as error:
                self._replace(file, error)
                self._begin_and_store(file, messages, marks)

    def _begin_and_store(self, file: LogFile, messages: Sequence[Message], marks: Mapping[str, int]) -> None:
        records = self.head.begin(messages)
        stored = False
        try:
            self._store(file, records, marks)
            stored = True
            self._marks.update(marks)
        finally:
            self.head.finish(records, stored)

    def _store(self, file: LogFile, records: Sequence[Record], marks: Mapping[str, int]) -> None:
        try:
            file.append(records, marks)
        except DiskFull:
            self.counters["full"] += 1
            if file is not self._control or not self._reserve.release():
                raise
            file.append(records, marks)

    def read(self, partition: Partition, position: int, end: int, limit: int) -> tuple[Sequence[Record], bool]:
        """Up to `limit` records in [position, end), and whether more follow: from memory if it reaches back that far."""
        found = self.head.recent(partition, position, end, limit, POLL_BYTES)
        if found is not None:
            return found
        file = self._file_of[partition[0]]
        try:
            return file.read(partition, position, end, limit)
        except Damaged as error:
            with file.writing:
                self._replace(file, error)
            return [], False

    def committed(self, group: str, partition: Partition) -> int | None:
        """What the group wants next, if it ever said so."""
        return self._commits.get((group, partition))

    def commit(self, group: str, positions: Mapping[Partition, int]) -> None:
        """Remembers what the group wants next. A full disk does not fail it: it is a gauge, written when there is room."""
        with self._control.writing:
            for partition, position in positions.items():
                if self._commits.get((group, partition)) != position:
                    self._commits[group, partition] = position
                    self._unsaved.add((group, partition))
            self._save_commits()

    def _save_commits(self) -> None:
        if self._unsaved:
            try:
                self._control.commit([(group, p, self._commits[group, p]) for group, p in self._unsaved])
            except DiskFull:
                self.counters["full"] += 1
                return
            except Damaged as error:
                self._replace(self._control, error)
                return
            self._unsaved.clear()
