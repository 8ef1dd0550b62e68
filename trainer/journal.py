"""One-shot orders of an attempt, written down before their effect, so that a kill can neither hide nor repeat one.

A line is eight hex digits of CRC-32, a blank, JSON. The file is preallocated: a full disk takes no prune or checkpoint
away, and the zero bytes behind the last line end the reading.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..bus.descriptors import bears, mark_of
from ..bus.process import boot_id, pid_started
from ..core.errors import Unavailable
from ..core.events import Ack
from ..core.intent import LrIntent
from ..core.ulid import ulid

ROOM_BYTES = 32 * 1024
KEPT_S = 30 * 24 * 3600.0


class Line(msgspec.Struct, omit_defaults=True):
    """`opened`: by process `pid`, which began at `pid_started` ticks of boot `id`. `begun`: the effect of order `id` may
    happen from now on. `answered`: what came of it, in `ack`. `said`: the acknowledgement has reached the spool. `intent`, in
    any of them: the learning rate that is in force from here on."""

    what: str
    id: str
    action: str = ""
    params: dict[str, Any] = {}
    step: int | None = None
    time: float = 0.0
    ack: Ack | None = None
    pid: int = 0
    pid_started: int = 0
    group: str | None = None
    intent: LrIntent | None = None


class Journal:
    """The journal of one attempt, in `folder`; Unavailable where a line cannot be made durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Ack] = {}
        self._file = -1
        self._mark = (0, 0)
        self._end = 0
        self._room = 0

    @classmethod
    def open(cls, folder: Path, run: str, attempt: str, pid: int = 0, group: str | None = None) -> Journal:
        """A new journal of process `pid` (0: of one that is dead already), whose run is in `group`; its room is taken now."""
        journal = cls(folder / journal_name(run, attempt))
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            journal._file = os.open(journal.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            journal._mark = mark_of(journal._file)
            journal._grow(ROOM_BYTES)
            journal._append(Line("opened", boot_id(), pid=pid, pid_started=pid_started(pid), group=group), sync=False)
        except OSError as error:
            journal.close()
            raise Unavailable(
                f"no journal at {journal.path}: {error.strerror}", "free some space, or write access there"
            ) from error
        return journal

    def begin(self, order_id: str, action: str, params: dict[str, Any], step: int | None, now: float) -> None:
        """Durable on return: from here on the effect may happen."""
        self._append(Line("begun", order_id, action, params, step, now))

    def answer(self, ack: Ack, intent: LrIntent | None = None) -> None:
        """Durable on return: the order's result, and the learning rate that it put in force."""
        self._answers[ack.id] = ack
        self._append(Line("answered", ack.id, ack=ack, intent=intent))

    def inherit(self, attempt: str, intent: LrIntent) -> None:
        """The learning rate that is in force as `attempt` left it."""
        self._append(Line("inherited", attempt, intent=intent), sync=False)

    def said(self, order_id: str) -> None:
        """The acknowledgement is in the spool; not worth a sync, since saying it twice harms nothing."""
        self._append(Line("said", order_id), sync=False)

    def answered(self, order_id: str) -> Ack | None:
        """The recorded result of an order seen before in this attempt."""
        return self._answers.get(order_id)

    def close(self, unlink: bool = False) -> None:
        """Lets go of the file; with `unlink`, removes it: nothing in it is still to be said."""
        if bears(self._file, self._mark):
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            os.close(self._file)
        self._file = -1
        if unlink:
            self.path.unlink(missing_ok=True)

    def _append(self, line: Line, sync: bool = True) -> None:
        row = _row(line)
        try:
            if not bears(self._file, self._mark):
                raise OSError(errno.EBADF, "the job has closed its descriptor")
            if self._end + len(row) > self._room:
                self._grow(self._room + max(ROOM_BYTES, len(row)))
            os.pwrite(self._file, row, self._end)
            if sync:
                os.fdatasync(self._file)
        except OSError as error:
            raise Unavailable(f"the journal {self.path} takes no line: {error.strerror}", "free some space there") from error
        self._end += len(row)

    def _grow(self, size: int) -> None:
        os.posix_fallocate(self._file, 0, size)
        self._room = size


def _row(line: Line) -> bytes:
    body = msgspec.json.encode(line)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def journal_name(run: str, attempt: str) -> str:
    """One file name: `~` is in no run's name, so it can stand for the slash."""
    return f"{run.replace('/', '~')}@{attempt}.journal"


def read_lines(path: Path) -> Iterator[Line]:
    """The lines up to the first that is torn."""
    for row in path.read_bytes().split(b"\n"):
        check, _, body = row.partition(b" ")
        if not body or check != b"%08x" % zlib.crc32(body):
            return
        try:
            yield msgspec.json.decode(body, type=Line)
        except msgspec.DecodeError:
            return


def unsaid(path: Path, run: str, attempt: str, now: float) -> list[Ack]:
    """What an attempt that is over still owes: recorded results that may not have been said, and `failed: interrupted`
    for what was begun and has no result."""
    owed: dict[str, Ack] = {}
    group = None
    for line in read_lines(path):
        if line.what == "opened":
            group = line.group
        elif line.what == "begun":
            owed[line.id] = Ack(line.id, run, attempt, "failed", now, group=group, step=line.step, reason="interrupted")
        elif line.what == "answered" and line.ack is not None:
            owed[line.id] = line.ack
        elif line.what == "said":
            owed.pop(line.id, None)
    return list(owed.values())


def journals(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(run as a file names it, attempt, path) of every journal in `folder`."""
    for path in folder.iterdir() if folder.is_dir() else ():
        run, at, attempt = path.name.removesuffix(".journal").rpartition("@")
        if at and path.name.endswith(".journal"):
            yield run, attempt, path


def last_attempt(folder: Path, run: str, before: str) -> tuple[str, Path] | None:
    """The newest attempt of `run` older than `before` that has a journal here, and its journal."""
    wanted = run.replace("/", "~")
    return max(((attempt, path) for name, attempt, path in journals(folder) if name == wanted and attempt < before), default=None)


def pruned_before(folder: Path, run: str, attempt: str) -> str | None:
    """Why the last attempt of `run` before `attempt` was told to stop; None where it was not."""
    before = last_attempt(folder, run, attempt)
    prunes: set[str] = set()
    for line in read_lines(before[1]) if before else ():
        if line.what == "begun" and line.action == "prune":
            prunes.add(line.id)
        elif line.what == "answered" and line.id in prunes and line.ack is not None and line.ack.status == "applied":
            return f"decision {line.id} ended this run before its restart"
    return None


def last_intent(folder: Path, run: str, attempt: str) -> LrIntent | None:
    """The learning rate that an attempt had in force at its end; None where it is not known, or was the user's own."""
    path = folder / journal_name(run, attempt)
    try:
        found = [line.intent for line in read_lines(path) if line.intent is not None]
    except OSError:
        return None
    return found[-1] if found and found[-1].fits and not found[-1].unchanged else None


def _empty(path: Path, intent: LrIntent | None) -> None:
    """Nothing is owed any more; what tells a resumed run its parent and its learning rate stays."""
    if intent is None:
        os.truncate(path, 0)
        return
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    hidden.write_bytes(_row(Line("inherited", "", intent=intent)))
    hidden.replace(path)


def sweep(folder: Path, now: float) -> None:
    """Removes the journals that nobody asked for in 30 days; an attempt's name tells its age."""
    oldest = ulid(now - KEPT_S, bytes(10))
    for _, attempt, path in journals(folder):
        if attempt < oldest:
            path.unlink(missing_ok=True)


def close_owed(folder: Path, run: str, attempt: str, now: float, say: Callable[[Ack], bool]) -> list[Ack]:
    """Has `say` send what the dead attempts of `run` before `attempt` still owe, and empties their journals. Returns what
    was said; what found no room stays owed."""
    said: list[Ack] = []
    wanted = run.replace("/", "~")
    for name, earlier, path in list(journals(folder)):
        if name != wanted or earlier >= attempt or path.stat().st_size == 0:
            continue
        first = next(read_lines(path), None)
        if first is not None and first.pid and first.id == boot_id() and pid_started(first.pid) == first.pid_started:
            continue  # it lives: its journal is its own
        owed = unsaid(path, run, earlier, now)
        done = [ack for ack in owed if say(ack)]
        said += done
        if len(done) == len(owed):
            _empty(path, last_intent(folder, run, earlier))
    return said
